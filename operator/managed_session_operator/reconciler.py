"""Brings one resource to where it should be: look, decide, take a step, look again."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from managed_session_api.conditions import ConditionStatus, ConditionType, Phase, Reason
from managed_session_api.events import END_TYPES
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_runtime.credentials import CredentialError

from managed_session_operator.context import Context
from managed_session_operator.decisions import Decision, Step, Surroundings, claim_active, decide, has_hint
from managed_session_operator.failures import (
    ConflictError,
    Failure,
    Kind,
    NotLeadingError,
    ResourceGoneError,
    retry_delay,
)
from managed_session_operator.status import Verdict, not_ready
from managed_session_operator.steps import (
    identity,
    restoration,
    running_period,
    sandbox,
    stuck,
    waiting,
    work,
    worker,
)
from managed_session_operator.steps.standing import stand
from managed_session_operator.stuck import Sightings

logger = logging.getLogger(__name__)

_MOST_STEPS = 40
"""Steps in one look; a resource that wants more is asked for again, so that others get their turn."""

_LEADING_SECONDS = 1.0
"""Until a resource is looked at again that could not be worked on for want of the Lease or an answer."""

_UNSERVED = frozenset({Reason.SUSPENDED, Reason.SANDBOX_VANISHED, Reason.SESSION_ENDED})
"""How a resource stands whose session is not served: its offers are left to the queue."""

_STEPS: dict[Step, Callable[[Context, ManagedSession], Awaitable[float | None]]] = {
    Step.FINALIZE: identity.finalize,
    Step.ADOPT: identity.adopt,
    Step.PROVE: identity.prove,
    Step.CONFIRM_END: identity.confirm_end,
    Step.DELETE: identity.delete,
    Step.REJECT_OFFER: work.reject_offer,
    Step.AWAIT_MESSAGE: work.await_message,
    Step.RELEASE_UNUSED: work.release_unused,
    Step.CLAIM: work.claim,
    Step.REFRESH_TOKEN: work.refresh_token,
    Step.DROP_OFFER: work.drop_offer,
    Step.ACKNOWLEDGE: work.acknowledge,
    Step.AWAIT_PLACE: waiting.await_place,
    Step.PROVISION: sandbox.provision,
    Step.SUSPEND: sandbox.suspend,
    Step.PAUSE: sandbox.pause,
    Step.RESOLVE_CREATE: sandbox.resolve_create,
    Step.NOTE_VANISHED: sandbox.note_vanished,
    Step.EXTEND: sandbox.extend,
    Step.ROLL_OVER: running_period.roll_over,
    Step.START_WORKER: worker.start,
    Step.STOP_WORKER: worker.stop_overdue,
    Step.RECORD_HEARTBEAT: worker.record_heartbeat,
    Step.REATTACH: worker.reattach,
    Step.RESTORE: restoration.restore,
    Step.FINISH: worker.finish,
    Step.LOOK: stuck.look,
    Step.RECOVER: stuck.recover,
}


class Reconciler:
    """Reconciles one resource at a time per name; the queue sees to that."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def reconcile(self, name: str) -> float | None:
        """Take the resource as far as it can go now.

        Returns:
            Seconds after which to look again; None when an event will tell.
        """
        context = self._context
        for _ in range(_MOST_STEPS):
            resource = context.store.get(name)
            if resource is None and not context.store.has(name):
                return await self._absent(name)
            if resource is None:
                self._drop(name)
                return None
            await self._know(resource)
            if (resting := self._resting(resource)) is not None:
                return resting
            settled, delay = await self._try_step(resource)
            if settled or delay is not None:
                return delay
        return 0.0

    async def _know(self, resource: ManagedSession) -> None:
        """Drop what is remembered of another resource that had this name."""
        name, uid = resource.metadata.name, resource.metadata.uid
        if self._context.memory(name).uid not in (None, uid):
            await self._context.forget(name)
        self._context.memory(name).uid = uid

    async def _try_step(self, resource: ManagedSession) -> tuple[bool, float | None]:
        """`_take_step`, with every way in which a step may fail."""
        try:
            return await self._take_step(resource)
        except NotLeadingError:
            return True, _LEADING_SECONDS
        except ResourceGoneError:
            self._context.store.remove(resource.metadata.name, resource.metadata.uid)
            return False, None
        except ConflictError:
            return False, None if await self._refresh(resource) else _LEADING_SECONDS
        except CredentialError as error:
            failure = Failure(Kind.PERSON, Reason.CREDENTIAL_MISSING, str(error))
            return True, await self._failed(resource, failure)
        except Failure as failure:
            return True, await self._failed(resource, failure)

    async def _take_step(self, resource: ManagedSession) -> tuple[bool, float | None]:
        """(whether nothing more can be done now, seconds after which to look again)."""
        context, memory = self._context, self._context.memory(resource.metadata.name)
        decision = decide(resource, self._surroundings(resource))
        context.metrics.steps.labels(decision.step.name.lower()).inc()
        settled = decision.step in (Step.WAIT, Step.REFUSE)
        memory.trying = decision.step.name
        if settled:
            self._settle(resource, decision)
            delay = await stand(context, resource, decision)
        else:
            delay = await _STEPS[decision.step](context, resource)
        if settled or memory.failing == decision.step.name:
            memory.failures, memory.failing = 0, None
        return settled, delay

    async def _refresh(self, resource: ManagedSession) -> bool:
        """Read the resource anew; whether that worked."""
        try:
            await self._context.refresh(resource)
        except ResourceGoneError:
            return True
        except Failure:
            return False
        return True

    def _drop(self, name: str) -> None:
        """A resource that another version wrote and we can't read takes no room from the others."""
        offer = self._context.inbox.for_resource(name)
        if offer is not None:
            self._context.inbox.remove(offer)
        self._context.capacity.release(name)

    async def _absent(self, name: str) -> float | None:
        """No such resource: make it if its session's work was offered."""
        context = self._context
        await context.forget(name)
        offer = context.inbox.for_resource(name)
        if offer is None or context.store.serving_name(offer.session_id) is not None:
            return None
        try:
            body = await context.resources.create(offer.session_id, offer.environment_id)
            context.memory(name).made_here = body["metadata"]["uid"]
        except NotLeadingError:
            return None
        except ConflictError:
            body = await context.resources.get(name) or {}
        except (Failure, ResourceGoneError) as error:
            logger.warning("resource not created", extra={"resource": name, "cause": str(error)})
            return 1.0
        if body:
            context.store.observe(body)
        return 0.0

    def _surroundings(self, resource: ManagedSession) -> Surroundings:
        context, name = self._context, resource.metadata.name
        memory, now, policy = context.memory(name), context.now(), context.policy(resource)
        event, expired = resource.status.last_event, False
        # Cleaning up needs no environment: a missing credential must not keep a resource for ever.
        deleting = resource.metadata.deletion_timestamp is not None
        if event is not None:
            if memory.hint is None or memory.hint[0] != event.id:
                memory.hint = (event.id, now)
            patience = timedelta(seconds=policy.attach_timeout_seconds)
            expired = now - memory.hint[1] > patience or now - event.created_at > patience * 2
        return Surroundings(
            now=now,
            environment_id="" if deleting else context.queue.environment_id,
            policy=policy,
            offer=context.inbox.get(resource.spec.session_id),
            run=context.runs.get(name, resource.status.work.claim),
            connected=memory.sandbox is not None,
            extend_at=memory.extend_at,
            roll_over_at=context.roll_over_at(name),
            serving_name=context.store.serving_name(resource.spec.session_id),
            end_checked=memory.end_checked,
            hint_seen_at=memory.hint[1] if memory.hint is not None else None,
            hint_expired=expired,
            hint_displaced=context.capacity.displaced(name),
            queued=self._queued(resource),
            message_known=memory.message_known or resource.status.turns > 0,
            message_awaited_since=memory.message_awaited_since,
            end_check_due=memory.end_check_due,
            running_unexpectedly=memory.running_unexpectedly,
            missing=memory.missing,
            wiped=self._wiped(resource),
            queue_trouble=context.queue_trouble,
            start_overdue_at=(
                memory.started_at + timedelta(seconds=context.settings.worker_start_timeout_seconds)
                if memory.started_at is not None
                else None
            ),
            sightings=self._sightings(resource, announced=expired and has_hint(resource)),
        )

    def _wiped(self, resource: ManagedSession) -> bool:
        """Whether somebody removed the status of a resource that has a worker or a sandbox."""
        name, status = resource.metadata.name, resource.status
        if status.sandbox.id is not None or status.sandbox.state is SandboxState.CREATING:
            return False
        listened_to = status.work.claim is None and self._context.runs.any(name) is not None
        return listened_to or self._context.memory(name).forgotten

    def _sightings(self, resource: ManagedSession, *, announced: bool) -> Sightings:
        context, memory, items = (
            self._context,
            self._context.memory(resource.metadata.name),
            self._context.work_list,
        )
        return Sightings(
            listed_at=items.asked_at if items is not None else None,
            item=items.of_session(resource.spec.session_id) if items is not None else None,
            unstarted_since=memory.unstarted_since,
            announced=announced,
            look=memory.look,
            acted_at=memory.acted_at,
            can_interrupt=context.api_key.possible,
            attempts=context.settings.recovery_attempts,
            sweep=timedelta(seconds=context.settings.sweep_seconds),
        )

    def _queued(self, resource: ManagedSession) -> bool:
        """Whether the session's work was in the queue at the last reading, and there is no place for it."""
        context, finished = self._context, resource.status.work.finished_at
        listed = context.work_list
        if listed is None or context.capacity.free or (finished is not None and listed.asked_at <= finished):
            return False
        item = listed.of_session(resource.spec.session_id)
        return item is not None and item.state == "queued"

    def _settle(self, resource: ManagedSession, decision: Decision) -> None:
        """What is not served keeps nothing: its offer is made again by the queue, its place is for others."""
        context, name = self._context, resource.metadata.name
        unserved = decision.step is Step.REFUSE or decision.reason in _UNSERVED
        if context.memory(name).sandbox is None and (unserved or not claim_active(resource)):
            context.capacity.release(name)
        offer = context.inbox.get(resource.spec.session_id)
        if offer is not None and unserved and decision.reason is not Reason.DUPLICATE_SESSION:
            context.inbox.remove(offer)

    def _ground(self, resource: ManagedSession) -> tuple[object, ...]:
        """What a failed step was tried on; when it changes, the step is worth trying at once."""
        context, name = self._context, resource.metadata.name
        run = context.runs.get(name, resource.status.work.claim)
        event = resource.status.last_event
        return (
            resource.metadata.generation,
            resource.metadata.deletion_timestamp,
            context.inbox.get(resource.spec.session_id),
            (run.heartbeat, run.record is None, run.live) if run is not None else None,
            event.id if event is not None and event.type in END_TYPES else None,
            context.memory(name).missing,
            context.queue.key_lines(),
            context.sandboxes.key_lines(),
        )

    def _resting(self, resource: ManagedSession) -> float | None:
        """Seconds that a failed step still rests, however often the resource is looked at meanwhile."""
        backoff = self._context.memory(resource.metadata.name).backoff
        if backoff is None or backoff[1] != self._ground(resource):
            return None
        left = backoff[0] - time.monotonic()
        return left if left > 0 else None

    async def _failed(self, resource: ManagedSession, failure: Failure) -> float:
        """The one place that turns a failure into a condition, an Event, a metric and a delay."""
        context, name = self._context, resource.metadata.name
        memory = context.memory(name)
        memory.failures += 1
        memory.failing = memory.trying
        context.metrics.failures.labels(str(failure.reason)).inc()
        delay = retry_delay(failure, memory.failures, context.settings.retry_scale)
        logger.warning(
            "step failed",
            extra={"resource": name, "reason": str(failure.reason), "cause": failure.message, "again": delay},
        )
        if failure.kind is Kind.GONE:
            memory.disconnect()
        state = (context.store.get(name) or resource).status.sandbox.state
        running = state in (SandboxState.RUNNING, SandboxState.CREATING)
        refused = failure.reason is Reason.SANDBOX_QUOTA_EXCEEDED and context.capacity.waits(name)
        context.creation.leave(name)
        if refused:
            # It stands in line again, and the line knows when the next may try.
            delay = context.capacity.wait_seconds()
        elif memory.sandbox is None and not (running and context.capacity.holds(name)):
            # A place is for a sandbox that runs: what can't be had must not keep others from theirs.
            context.capacity.release(name)
        if failure.reason is not Reason.KUBERNETES_REFUSED:
            await self._tell(resource, failure)
        newest = context.store.get(name) or resource
        if not refused:
            memory.backoff = (time.monotonic() + delay, self._ground(newest))
        return delay

    async def _tell(self, resource: ManagedSession, failure: Failure) -> None:
        context = self._context
        phase = Phase.FAILED if failure.kind is Kind.PERSON else None
        reason = failure.reason
        if resource.metadata.deletion_timestamp is not None:
            phase, reason = Phase.TERMINATING, Reason.CLEANUP_BLOCKED
        verdicts = [not_ready(reason, failure.message)]
        if str(failure.reason).startswith(("Sandbox", "Template")):
            verdicts.append(
                Verdict(ConditionType.SANDBOX_READY, ConditionStatus.FALSE, failure.reason, failure.message)
            )
        before = resource.status.condition(ConditionType.READY)
        try:
            newest = context.store.get(resource.metadata.name) or resource
            await context.write_status(newest, phase=phase, verdicts=verdicts)
        except (ConflictError, ResourceGoneError, NotLeadingError, Failure) as error:
            logger.info("condition not written", extra={"cause": str(error)})
        if before is None or before.reason != verdicts[0].reason:
            context.event(resource, Reason(failure.reason), failure.message, warning=True)
