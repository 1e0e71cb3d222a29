"""Claims and acknowledges offers of the queue, refreshes their tokens, or returns them unserved."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_api.times import claim_name
from managed_session_worker.protocol import ExitReason
from pydantic import SecretStr

from managed_session_operator.domain import kept_snapshots
from managed_session_operator.domain.conditions import conditions_of, phase_of
from managed_session_operator.domain.decide import claim_active, has_begun
from managed_session_operator.domain.idle_patience import returns
from managed_session_operator.domain.offer import Offer
from managed_session_operator.domain.recovery import suspected
from managed_session_operator.domain.step import Decision, Step
from managed_session_operator.domain.user_wait import NO_WAIT, is_paused
from managed_session_operator.steps.class_policy import next_policy
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.report_conditions import report_conditions
from managed_session_operator.steps.waiting import wait_for_slot

logger = logging.getLogger(__name__)

NO_CREDENTIAL = "The work has no session token, and sandboxes do not get the environment key."
_TAKEN = (
    "The work was stopped, or another worker took it, before the session's worker had started. Send another "
    "message, or `user.interrupt` if the session accepts none."
)
_MESSAGE_SECONDS = (0.1, 0.2, 0.4, 1.0)


def _work(offer: Offer, claim_id: str) -> dict[str, Any]:
    """Return `status.work` for a new claim."""
    return {
        "id": offer.work_id,
        "claim": claim_id,
        "offeredAt": offer.offered_at,
        "acknowledgedAt": None,
        "startedAt": None,
        "firstHeartbeatAt": None,
        "servingLateSince": None,
        **NO_WAIT,
        "finishedAt": None,
        "exitReason": None,
        "stopReason": None,
        "attempts": 0,
        "quickReturns": None,
    }


def _unserved(
    resource: ManagedSession, offer: Offer, exit_reason: ExitReason, now: datetime
) -> dict[str, Any]:
    """Return `status.work` for an offer that was taken off the queue without a worker."""
    claim_id = claim_name(offer.offered_at, resource.status.work.claim)
    ended = {"acknowledgedAt": now, "finishedAt": now, "exitReason": exit_reason}
    return _work(offer, claim_id) | ended


async def await_message(context: Context, resource: ManagedSession) -> float | None:
    """Check whether the offered session has had a message. Before that, no sandbox is started for it."""
    cache = context.cache(resource.metadata.name)
    has_message = await context.sessions.has_message(resource.spec.session_id)
    if has_message is None:
        # The session has been deleted since the offer. Once that is confirmed, its resource is deleted too.
        cache.end_check_due = True
        return await reject_offer(context, resource)
    if has_message:
        cache.message_known = True
        return None
    context.inbox.park(resource.spec.session_id)
    await report_conditions(context, resource, Decision(Step.WAIT, Reason.AWAITING_MESSAGE))
    wait = _MESSAGE_SECONDS[min(cache.message_checks, len(_MESSAGE_SECONDS) - 1)]
    cache.message_checks += 1
    return wait


async def release_unused(context: Context, resource: ManagedSession) -> float | None:
    """Stop the item of a session that has had no message in time. The next message queues work again.

    A message may arrive between the check and the stop, because the two are not atomic. It is then served
    without a lease.
    """
    offer, cache = context.inbox.get(resource.spec.session_id), context.cache(resource.metadata.name)
    if offer is None:
        return None
    if await context.sessions.has_message(resource.spec.session_id):
        cache.message_known = True
        return None
    if await context.queue.acknowledge(offer.work_id):
        # Recorded before the stop, so that after a crash the next leader checks whether a message has
        # arrived.
        resource = await context.records.write_status(resource, recovery={"suspectedAt": context.now()})
        await context.queue.stop(offer.work_id)
    if await _is_stopped_in_a_turn(context, resource, offer.work_id):
        cache.message_known = True
        return await _claim_stopped(context, resource, offer)
    now = context.now()
    await context.records.write_status(
        resource,
        phase=phase_of(Reason.IDLE),
        conditions=conditions_of(Reason.IDLE, "", resource.status.sandbox.state),
        work=_unserved(resource, offer, ExitReason.NO_MESSAGE, now),
        recovery={"checkedAt": now} if suspected(resource) else {},
    )
    context.inbox.remove(offer)
    cache.message_checks = 0
    return None


async def _is_stopped_in_a_turn(context: Context, resource: ManagedSession, work_id: str) -> bool:
    """Return whether the item is stopped although the session needs a worker, so that no other will come."""
    turn = await context.sessions.turn(resource.spec.session_id)
    return turn is not None and turn.needs_worker and await context.queue.state(work_id) == "stopped"


async def reject_offer(context: Context, resource: ManagedSession) -> float | None:
    """Take the work of a session that has ended off the queue."""
    offer = context.inbox.get(resource.spec.session_id)
    if offer is not None:
        if await context.queue.acknowledge(offer.work_id):
            await context.queue.stop(offer.work_id)
        context.inbox.remove(offer)
    return None


def _since(context: Context, resource: ManagedSession, offer: Offer) -> datetime:
    """Return since when the offered work has been waiting. Its message may be younger than the offer."""
    event = resource.status.last_event
    if is_paused(resource) and resource.status.work.offered_at is not None:
        # It gave its slot back while it waited for its user. Nobody who came since then goes first.
        return resource.status.work.offered_at
    offered_at = _first_offered(context, offer)
    return max(offered_at, event.created_at) if event is not None else offered_at


def _first_offered(context: Context, offer: Offer) -> datetime:
    """Return when the work was first offered. An offer that waits for a slot is replaced by newer ones."""
    inbox, session_id = context.inbox, offer.session_id
    earlier = (inbox.waiting_since(session_id), inbox.left_since(session_id))
    return min(offer.offered_at, *(each for each in earlier if each is not None))


def _active_before(resource: ManagedSession, now: datetime) -> dict[str, Any]:
    """Return the activity to record for the claim that a new one supersedes: its worker may have run."""
    work = resource.status.work
    return {"lastActiveTime": now} if work.attempts > 0 and work.finished_at is None else {}


async def claim(context: Context, resource: ManagedSession) -> float | None:
    """Store the offer's token, then record the claim. If there is no sandbox, record its attempt too."""
    offer = context.inbox.get(resource.spec.session_id)
    if offer is None:
        return None
    name, cache, status = resource.metadata.name, context.cache(resource.metadata.name), resource.status
    served = claim_active(resource) and status.work.acknowledged_at is not None
    if served and await context.queue.state(offer.work_id) != "queued":
        # The offer was sent before the acknowledgement arrived, or twice: it is the present claim's work.
        if has_begun(resource, context.runs.get(name, status.work.claim)):
            context.inbox.remove(offer)
            return None
        return await refresh_token(context, resource)
    if offer.secret is None and not context.settings.allow_environment_key_in_sandbox:
        return await _refuse_without_token(context, resource, offer)
    class_name = context.class_name(resource)
    if cache.sandbox is not None:
        context.capacity.hold(name, class_name)
    elif not context.capacity.ask(name, _since(context, resource, offer), class_name=class_name):
        return await _wait_with_offer(context, resource, offer)
    await _write_claim(context, resource, offer)
    return None


async def _wait_with_offer(context: Context, resource: ManagedSession, offer: Offer) -> float | None:
    """Wait for a slot. If the class has enough other offers that wait, leave this one to the queue."""
    name = resource.metadata.name
    if context.capacity.leaves_offer(name):
        context.inbox.leave(offer, _since(context, resource, offer))
        context.capacity.release(name)
    return await wait_for_slot(context, resource)


async def _claim_stopped(context: Context, resource: ManagedSession, offer: Offer) -> float | None:
    """Claim an item that is already stopped, as if it were acknowledged. Its worker needs no lease."""
    if offer.secret is None and not context.settings.allow_environment_key_in_sandbox:
        return await _refuse_without_token(context, resource, offer)
    await _write_claim(context, resource, offer, acknowledged_at=context.now())
    return None


async def _write_claim(
    context: Context, resource: ManagedSession, offer: Offer, *, acknowledged_at: datetime | None = None
) -> None:
    """Store the offer's token, then record the claim.

    If the claim needs a new sandbox and has a slot, the attempt is recorded in the same write. A claim that
    is recorded as acknowledged has no slot yet.
    """
    name, cache, status = resource.metadata.name, context.cache(resource.metadata.name), resource.status
    claim_id = claim_name(offer.offered_at, status.work.claim)
    if not (claim_active(resource) or next_policy(context, resource).decided):
        # A class has changed since the step was chosen.
        return
    await context.tokens.put(resource, claim_id, offer.secret)
    cache.token = (claim_id, offer.secret)
    cache.waits_since = (claim_id, _since(context, resource, offer))
    cache.started_at = None
    following = next_policy(context, resource)
    if not (claim_active(resource) or following.decided):
        return
    work = _work(offer, claim_id) | returns(resource, following.policy.values, _first_offered(context, offer))
    sandbox: dict[str, object] = {}
    requests: dict[str, str] = {}
    state = status.sandbox.state
    if acknowledged_at is not None:
        work |= {"acknowledgedAt": acknowledged_at, "startedAt": acknowledged_at, "attempts": 1}
    elif cache.sandbox is not None:
        state = SandboxState.RUNNING
        sandbox = {"state": str(state)}
    elif status.sandbox.id is None and state is not SandboxState.CREATING:
        state = SandboxState.CREATING
        cache.fresh_attempt = status.sandbox.attempt + 1
        source = kept_snapshots.source_fields(resource, following.policy.values)
        sandbox = {"state": str(state), "attempt": cache.fresh_attempt, **source}
        requests = kept_snapshots.restore_fields(resource)
    await context.records.write_status(
        resource,
        phase=phase_of(Reason.PROVISIONING),
        conditions=[*conditions_of(Reason.PROVISIONING, "", state), *following.conditions],
        **following.fields,
        work=work,
        sandbox={**sandbox, **following.sandbox},
        requests=requests,
        **_active_before(resource, context.now()),
    )
    context.silence.claimed(resource, claim_id, context.now())
    context.inbox.remove(offer)
    logger.info(
        "routing work",
        extra={"session": offer.session_id, "work": offer.work_id, "claim": claim_id, "resource": name},
    )
    context.event(resource, Reason.CLAIMED, f"Claimed work {offer.work_id} from the queue.")


async def _refuse_without_token(context: Context, resource: ManagedSession, offer: Offer) -> float | None:
    """Report that the environment issues no session tokens, before a sandbox is paid for."""
    message = NO_CREDENTIAL
    if await context.queue.acknowledge(offer.work_id):
        await context.queue.stop(offer.work_id)
    now = context.now()
    await context.records.write_status(
        resource,
        phase=phase_of(Reason.NO_SESSION_TOKEN),
        conditions=conditions_of(Reason.NO_SESSION_TOKEN, message, resource.status.sandbox.state),
        work=_unserved(resource, offer, ExitReason.NO_SESSION_TOKEN, now),
    )
    context.inbox.remove(offer)
    context.event(resource, Reason.NO_SESSION_TOKEN, message, warning=True)
    return None


async def refresh_token(context: Context, resource: ManagedSession) -> float | None:
    """Store the token of a newer offer of the same work, whose worker has sent no heartbeat yet.

    The queue may accept only the newest token. If a worker was started with an older one and is refused, it
    is started again with this one. An offer may come without a token; then the earlier token is kept.
    """
    offer, claim_id = context.inbox.get(resource.spec.session_id), resource.status.work.claim
    if offer is not None and claim_id is not None:
        if offer.secret is not None:
            await context.tokens.put(resource, claim_id, offer.secret)
            context.cache(resource.metadata.name).token = (claim_id, offer.secret)
        context.inbox.remove(offer)
    return None


async def held_token(context: Context, name: str, claim_id: str) -> tuple[str, SecretStr | None] | None:
    """Return the claim and its token, which is read anew if this process does not hold it.

    None if its Secret is missing.
    """
    cache = context.cache(name)
    if cache.token is None or cache.token[0] != claim_id:
        exists, token = await context.tokens.get(name, claim_id)
        if not exists:
            return None
        cache.token = (claim_id, token)
    return cache.token


async def drop_offer(context: Context, resource: ManagedSession) -> float | None:
    """Forget an offer of work that a worker already serves. It was sent before the acknowledgement."""
    offer = context.inbox.get(resource.spec.session_id)
    if offer is not None:
        context.inbox.remove(offer)
    return None


async def acknowledge(context: Context, resource: ManagedSession) -> float | None:
    """Take the item off the queue, now that the sandbox is ready. From here on the operator must serve it.

    An item that somebody has stopped is served too, if its session's turn is open.
    """
    work = resource.status.work
    if work.claim is not None and await held_token(context, resource.metadata.name, work.claim) is None:
        # The work is not acknowledged yet, so the queue offers it again with a token.
        message = "The session token was deleted before the work was acknowledged."
        return await give_up(context, resource, ExitReason.TOKEN_MISSING, Reason.AWAITING_CLAIM, message)
    ours = work.id is not None and (
        await context.queue.acknowledge(work.id) or await _is_stopped_in_a_turn(context, resource, work.id)
    )
    if not ours:
        return await give_up(context, resource, ExitReason.WORK_LOST, Reason.WORK_LOST, _TAKEN)
    now = context.now()
    await context.records.write_status(
        resource,
        phase=phase_of(Reason.STARTING_WORKER),
        conditions=conditions_of(Reason.STARTING_WORKER, "", SandboxState.RUNNING),
        work={"acknowledgedAt": now, "startedAt": now, "attempts": 1},
        sandbox={"state": str(SandboxState.RUNNING)},
    )
    return None


async def give_up(
    context: Context, resource: ManagedSession, exit_reason: ExitReason, reason: Reason, message: str = ""
) -> float | None:
    """End the claim without a worker's exit. The next step pauses the sandbox."""
    await context.runs.forget(resource.metadata.name)
    resource = await context.records.write_status(
        resource,
        phase=phase_of(reason),
        conditions=conditions_of(reason, message, resource.status.sandbox.state),
        work={"finishedAt": context.now(), "exitReason": exit_reason, **NO_WAIT},
        recovery={} if reason is Reason.NO_SESSION_TOKEN else {"suspectedAt": context.now()},
    )
    await context.tokens.delete(resource, resource.status.work.claim)
    if reason is not Reason.IDLE:
        context.event(resource, reason, message, warning=True)
    context.metrics.turns.labels(exit_reason).inc()
    return None
