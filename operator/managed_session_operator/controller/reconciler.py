"""Reconciles one resource: observes it, decides on the next step, takes the step, and starts again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from managed_session_runtime.credentials import CredentialError

from managed_session_operator.controller.failure_handling import FailureHandling
from managed_session_operator.domain.decide import claim_active, decide
from managed_session_operator.domain.errors import (
    ConflictError,
    ErrorKind,
    NotLeadingError,
    OperationError,
    ResourceGoneError,
    UnderWayError,
)
from managed_session_operator.domain.observation import Observation
from managed_session_operator.domain.observe import Process, observe
from managed_session_operator.domain.step import Decision, Step
from managed_session_operator.domain.user_wait import is_paused
from managed_session_operator.steps import (
    class_policy,
    kept_snapshots,
    late_serving,
    network,
    offers,
    ownership,
    paused_wait,
    preparation,
    recovery,
    restore_status,
    retry,
    rollover,
    sandbox,
    sandbox_loss,
    teardown,
    turn_end,
    turn_limit,
    user_wait,
    waiting,
    worker_start,
    worker_stream,
)
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.report_conditions import report_conditions

logger = logging.getLogger(__name__)

_MOST_STEPS = 40
"""Maximum number of steps at a time. A resource that needs more goes back into the queue."""

_LEADING_SECONDS = 1.0
"""Requeue delay when this process does not lead or the API server did not answer."""

_UNSERVED = frozenset(
    {
        Reason.SUSPENDED,
        Reason.SANDBOX_VANISHED,
        Reason.SESSION_ENDED,
        Reason.AMBIGUOUS_CLASS,
        Reason.BUDGET_REACHED,
        Reason.TURN_TOO_LONG,
    }
)
"""Reasons of sessions that are not served. Their offers are left to the queue."""

_STEPS: dict[Step, Callable[[Context, ManagedSession], Awaitable[float | None]]] = {
    Step.FINALIZE: teardown.finalize,
    Step.TAKE_OWNERSHIP: ownership.take_ownership,
    Step.VERIFY_OWNERSHIP: ownership.verify_ownership,
    Step.CONFIRM_END: teardown.confirm_end,
    Step.DELETE: teardown.delete,
    Step.REJECT_OFFER: offers.reject_offer,
    Step.AWAIT_MESSAGE: offers.await_message,
    Step.RELEASE_UNUSED: offers.release_unused,
    Step.CLAIM: offers.claim,
    Step.REFRESH_TOKEN: offers.refresh_token,
    Step.DROP_OFFER: offers.drop_offer,
    Step.ACKNOWLEDGE: offers.acknowledge,
    Step.AWAIT_SLOT: waiting.await_slot,
    Step.PROVISION: sandbox.provision,
    Step.PREPARE: preparation.prepare,
    Step.SUSPEND: sandbox.suspend,
    Step.PAUSE: sandbox.pause,
    Step.CLEAN_SANDBOX: kept_snapshots.clean,
    Step.TAKE_SNAPSHOT: kept_snapshots.take,
    Step.RETAIN: kept_snapshots.retain,
    Step.KILL_REPLACED: kept_snapshots.kill_replaced,
    Step.UNDO_RESTORE: kept_snapshots.undo_restore,
    Step.RESOLVE_CREATE: sandbox.resolve_create,
    Step.RECORD_VANISHED: sandbox_loss.record_vanished,
    Step.EXTEND: sandbox.extend,
    Step.ROLL_OVER: rollover.roll_over,
    Step.START_WORKER: worker_start.start,
    Step.STOP_WORKER: worker_start.stop_overdue,
    Step.RECORD_HEARTBEAT: worker_start.record_heartbeat,
    Step.RECORD_LATE_SERVING: late_serving.record,
    Step.RECORD_USER_WAIT: user_wait.record_user_wait,
    Step.PAUSE_WAIT: paused_wait.pause_wait,
    Step.CHECK_ANSWER: paused_wait.check_answer,
    Step.RESUME_WAIT: paused_wait.resume_wait,
    Step.REATTACH: worker_stream.reattach,
    Step.RESTORE: restore_status.restore,
    Step.FINISH: turn_end.finish,
    Step.TRY_AGAIN: retry.try_again,
    Step.INSPECT_SESSION: recovery.inspect_session,
    Step.RECOVER: recovery.recover,
    Step.LEARN_SESSION: class_policy.learn_session,
    Step.RECORD_POLICY: class_policy.record_policy,
    Step.UPDATE_NETWORK: network.update_network,
    Step.CHECK_TURN: turn_limit.check_turn,
}


class Reconciler:
    """Reconciles resources. The queue ensures that each is reconciled by one task at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._failures = FailureHandling(context)

    async def reconcile(self, name: str) -> float | None:
        """Take steps for the resource until there is nothing left to do now.

        Returns:
            Seconds after which to reconcile it again; None if an event will cause that.
        """
        context = self._context
        for _ in range(_MOST_STEPS):
            resource = context.records.cache.get(name)
            if resource is None and not context.records.cache.has(name):
                return await self._absent(name)
            if resource is None:
                self._drop(name)
                return None
            await self._forget_predecessor(resource)
            if (resting := self._failures.resting(resource)) is not None:
                return resting
            settled, delay = await self._try_step(resource)
            if settled or delay is not None:
                return delay
        return 0.0

    async def _forget_predecessor(self, resource: ManagedSession) -> None:
        """Drop what this process holds for an earlier resource of the same name."""
        name, uid = resource.metadata.name, resource.metadata.uid
        if self._context.cache(name).uid not in (None, uid):
            await self._context.forget(name)
        self._context.cache(name).uid = uid

    async def _try_step(self, resource: ManagedSession) -> tuple[bool, float | None]:
        """Take a step, and handle every error that it may raise. Returns as `_take_step`."""
        try:
            return await self._take_step(resource)
        except NotLeadingError:
            return True, _LEADING_SECONDS
        except UnderWayError:
            # Decide again at once: if nothing has changed meanwhile, the step waits for the same call.
            return True, 0.0
        except ResourceGoneError:
            self._context.records.cache.remove(resource.metadata.name, resource.metadata.uid)
            return False, None
        except ConflictError:
            return False, None if await self._refresh(resource) else _LEADING_SECONDS
        except CredentialError as error:
            missing = OperationError(ErrorKind.USER_ACTION, Reason.CREDENTIAL_MISSING, str(error))
            return True, await self._failures.failed(resource, missing)
        except OperationError as error:
            return True, await self._failures.failed(resource, error)

    async def _take_step(self, resource: ManagedSession) -> tuple[bool, float | None]:
        """Take a step. Return (whether nothing is left to do now, seconds until the next reconciliation)."""
        context = self._context
        decision = decide(resource, self._observe(resource))
        context.metrics.steps.labels(decision.step.name.lower()).inc()
        settled = decision.step in (Step.WAIT, Step.REFUSE)
        self._failures.begins(resource, decision.step)
        if settled:
            self._settle(resource, decision)
            delay = await report_conditions(context, resource, decision)
        else:
            delay = await self._effect(resource, decision.step)
        self._failures.succeeded(resource, decision.step, settled=settled)
        return settled, delay

    async def _effect(self, resource: ManagedSession, step: Step) -> float | None:
        """Take a step that has an effect."""
        context, traces = self._context, self._context.traces
        if traces is None:
            return await _STEPS[step](context, resource)
        with traces.step_begins(resource, step):
            delay = await _STEPS[step](context, resource)
        traces.step_ended(resource, step, delay)
        return delay

    async def _refresh(self, resource: ManagedSession) -> bool:
        """Read the resource from the API server. Return whether that worked."""
        try:
            await self._context.records.refresh(resource)
        except ResourceGoneError:
            return True
        except OperationError:
            return False
        return True

    def _drop(self, name: str) -> None:
        """Free the slot and the offer of a resource that only another version can parse."""
        offer = self._context.inbox.for_resource(name)
        if offer is not None:
            self._context.inbox.remove(offer)
        self._context.capacity.release(name)

    async def _absent(self, name: str) -> float | None:
        """Create the missing resource, if its session's work was offered."""
        context = self._context
        await context.forget(name)
        offer = context.inbox.for_resource(name)
        if offer is None or context.records.cache.serving_name(offer.session_id) is not None:
            return None
        try:
            made = await context.records.create(offer.session_id, offer.environment_id)
            context.cache(name).made_here = made.metadata.uid
        except NotLeadingError:
            return None
        except ConflictError:
            await context.records.find(name)
        except (OperationError, ResourceGoneError) as error:
            logger.warning("resource not created", extra={"resource": name, "cause": str(error)})
            return 1.0
        return 0.0

    def _observe(self, resource: ManagedSession) -> Observation:
        context, name, now = self._context, resource.metadata.name, self._context.now()
        cache = context.cache(name)
        cache.note_event(resource, now)
        cache.note_wait(resource, now)
        # The cleanup needs no environment, so a missing credential must not block a deletion.
        deleting = resource.metadata.deletion_timestamp is not None
        choice = context.choice(resource)
        process = Process(
            settings=context.settings,
            environment_id="" if deleting else context.queue.environment_id,
            can_interrupt=context.api_key.possible,
            serving_name=context.records.cache.serving_name(resource.spec.session_id),
            run=context.runs.any(name),
            slot_wanted=context.capacity.displaced(name),
            slots_free=context.capacity.free_for(context.class_name(resource)),
            serving=context.serving(resource),
            choice=choice,
            budget_spent=context.budget_spent(choice.chosen),
        )
        return observe(resource, cache, context.inbox, context.listings, now, process)

    def _settle(self, resource: ManagedSession, decision: Decision) -> None:
        """Free what a session does not need now: its slot, and its offer, which the queue makes again."""
        context, name = self._context, resource.metadata.name
        unserved = decision.step is Step.REFUSE or decision.reason in _UNSERVED
        rests = unserved or not claim_active(resource) or is_paused(resource)
        if context.cache(name).sandbox is None and rests:
            context.capacity.release(name)
        offer = context.inbox.get(resource.spec.session_id)
        if offer is not None and is_paused(resource):
            context.inbox.park(resource.spec.session_id)
        if offer is not None and unserved and decision.reason is not Reason.DUPLICATE_SESSION:
            context.inbox.remove(offer)
