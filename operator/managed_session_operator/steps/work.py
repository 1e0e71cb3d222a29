"""Offers of the queue: claimed, refreshed, acknowledged, or given back unserved."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_api.times import claim_name

from managed_session_operator.context import Context
from managed_session_operator.decisions import Decision, Step, claim_active
from managed_session_operator.offers import Offer
from managed_session_operator.steps.standing import phase_of, stand, verdicts_of
from managed_session_operator.steps.waiting import wait_for_place

logger = logging.getLogger(__name__)

NO_CREDENTIAL = "the work came without a session token, and the environment key is not given to sandboxes"
_MESSAGE_TOO_LATE = "the first message came while the unused work was being stopped; send user.interrupt"
_TAKEN = (
    "the work was stopped or taken by someone else before its worker had started; send another message, or "
    "user.interrupt if the session takes none"
)
_MESSAGE_SECONDS = (0.1, 0.2, 0.4, 1.0)


def _work(offer: Offer, claim_id: str) -> dict[str, Any]:
    """`status.work` of a claim that has just begun."""
    return {
        "id": offer.work_id,
        "claim": claim_id,
        "offeredAt": offer.offered_at,
        "acknowledgedAt": None,
        "firstHeartbeatAt": None,
        "finishedAt": None,
        "exitReason": None,
        "attempts": 0,
    }


def _unserved(resource: ManagedSession, offer: Offer, exit_reason: str, now: datetime) -> dict[str, Any]:
    """`status.work` of an offer that was taken off the queue without a worker."""
    claim_id = claim_name(offer.offered_at, resource.status.work.claim)
    ended = {"acknowledgedAt": now, "finishedAt": now, "exitReason": exit_reason}
    return _work(offer, claim_id) | ended


async def await_message(context: Context, resource: ManagedSession) -> float | None:
    """Look whether a session that was offered has had a message yet; nothing is paid for until then."""
    memory = context.memory(resource.metadata.name)
    said = await context.queue.has_message(resource.spec.session_id)
    if said is None:
        # Deleted since it was offered: its work goes, and the resource once that is confirmed.
        memory.end_check_due = True
        return await reject_offer(context, resource)
    if said:
        memory.message_known = True
        return None
    offer = context.inbox.get(resource.spec.session_id)
    if memory.message_awaited_since is None and offer is not None:
        memory.message_awaited_since = offer.offered_at
    context.inbox.park(resource.spec.session_id)
    await stand(context, resource, Decision(Step.WAIT, Reason.AWAITING_MESSAGE))
    wait = _MESSAGE_SECONDS[min(memory.message_checks, len(_MESSAGE_SECONDS) - 1)]
    memory.message_checks += 1
    return wait


async def release_unused(context: Context, resource: ManagedSession) -> float | None:
    """No message came in time: stop the item. The session's next message queues work again."""
    offer = context.inbox.get(resource.spec.session_id)
    if offer is None:
        return None
    if await context.queue.has_message(resource.spec.session_id):
        context.memory(resource.metadata.name).message_known = True
        return None
    stopped = await context.queue.acknowledge(offer.work_id)
    if stopped:
        await context.queue.stop(offer.work_id)
    # A message may come in the moment between the question and the stop, which nothing makes atomic.
    too_late = stopped and bool(await context.queue.has_message(resource.spec.session_id))
    reason, message = (Reason.WORK_LOST, _MESSAGE_TOO_LATE) if too_late else (Reason.IDLE, "")
    if too_late:
        context.event(resource, reason, message, warning=True)
    now = context.now()
    await context.write_status(
        resource,
        phase=phase_of(reason),
        verdicts=verdicts_of(reason, message, resource.status.sandbox.state),
        work=_unserved(resource, offer, "WorkLost" if too_late else "NoMessage", now),
        recovery={"suspectedAt": now} if too_late else {},
    )
    context.inbox.remove(offer)
    memory = context.memory(resource.metadata.name)
    memory.message_checks, memory.message_awaited_since = 0, None
    return None


async def reject_offer(context: Context, resource: ManagedSession) -> float | None:
    """Take the work of a session that has ended off the queue."""
    offer = context.inbox.get(resource.spec.session_id)
    if offer is not None:
        if await context.queue.acknowledge(offer.work_id):
            await context.queue.stop(offer.work_id)
        context.inbox.remove(offer)
    return None


def _since(resource: ManagedSession, offer: Offer) -> datetime:
    """Since when the offered work waits: a message may have come only while its session's offer was there."""
    event = resource.status.last_event
    return max(offer.offered_at, event.created_at) if event is not None else offer.offered_at


def _active_before(resource: ManagedSession, now: datetime) -> dict[str, Any]:
    """A claim that is superseded had a worker perhaps, of which nothing else will tell."""
    work = resource.status.work
    return {"lastActiveTime": now} if work.attempts > 0 and work.finished_at is None else {}


async def claim(context: Context, resource: ManagedSession) -> float | None:
    """Keep the offer's token and write the claim down; announce a create where there is no sandbox."""
    offer = context.inbox.get(resource.spec.session_id)
    if offer is None:
        return None
    name, memory, status = resource.metadata.name, context.memory(resource.metadata.name), resource.status
    served = claim_active(resource) and status.work.acknowledged_at is not None
    if served and await context.queue.state(offer.work_id) != "queued":
        # Overtaken by the acknowledgement, or repeated: the work is that of the present claim.
        context.inbox.remove(offer)
        return None
    if offer.secret is None and not context.settings.allow_environment_key_in_sandbox:
        return await _refuse_without_token(context, resource, offer)
    if memory.sandbox is not None:
        context.capacity.hold(name)
    elif not context.capacity.ask(name, _since(resource, offer)):
        return await wait_for_place(context, resource)
    claim_id = claim_name(offer.offered_at, status.work.claim)
    await context.tokens.put(resource, claim_id, offer.secret)
    memory.token = (claim_id, offer.secret)
    memory.started_at = memory.message_awaited_since = None
    sandbox: dict[str, object] = {}
    state = status.sandbox.state
    if memory.sandbox is not None:
        state = SandboxState.RUNNING
        sandbox = {"state": str(state)}
    elif status.sandbox.id is None and state is not SandboxState.CREATING:
        state = SandboxState.CREATING
        memory.fresh_attempt = status.sandbox.attempt + 1
        sandbox = {"state": str(state), "attempt": memory.fresh_attempt}
    await context.write_status(
        resource,
        phase=phase_of(Reason.PROVISIONING),
        verdicts=verdicts_of(Reason.PROVISIONING, "", state),
        effective=context.policy(resource).to_json(),
        work=_work(offer, claim_id),
        sandbox=sandbox,
        **_active_before(resource, context.now()),
    )
    context.inbox.remove(offer)
    logger.info(
        "routing work",
        extra={"session": offer.session_id, "work": offer.work_id, "claim": claim_id, "resource": name},
    )
    context.event(resource, Reason.CLAIMED, f"work {offer.work_id} claimed from the queue")
    return None


async def _refuse_without_token(context: Context, resource: ManagedSession, offer: Offer) -> float | None:
    """The environment issues no session tokens: say so before a sandbox is paid for."""
    message = NO_CREDENTIAL
    if await context.queue.acknowledge(offer.work_id):
        await context.queue.stop(offer.work_id)
    now = context.now()
    await context.write_status(
        resource,
        phase=phase_of(Reason.NO_SESSION_TOKEN),
        verdicts=verdicts_of(Reason.NO_SESSION_TOKEN, message, resource.status.sandbox.state),
        work=_unserved(resource, offer, "NoSessionToken", now),
    )
    context.inbox.remove(offer)
    context.event(resource, Reason.NO_SESSION_TOKEN, message, warning=True)
    return None


async def refresh_token(context: Context, resource: ManagedSession) -> float | None:
    """The same work was offered again before it was acknowledged: its newest token counts.

    A token is not promised with every answer: one that came before is kept.
    """
    offer, claim_id = context.inbox.get(resource.spec.session_id), resource.status.work.claim
    if offer is not None and claim_id is not None:
        if offer.secret is not None:
            await context.tokens.put(resource, claim_id, offer.secret)
            context.memory(resource.metadata.name).token = (claim_id, offer.secret)
        context.inbox.remove(offer)
    return None


async def drop_offer(context: Context, resource: ManagedSession) -> float | None:
    """The offer was made before the acknowledgement that took its work off the queue."""
    offer = context.inbox.get(resource.spec.session_id)
    if offer is not None:
        context.inbox.remove(offer)
    return None


async def acknowledge(context: Context, resource: ManagedSession) -> float | None:
    """Take the item off the queue, now that the sandbox is ready: from here on it must be served."""
    work, name = resource.status.work, resource.metadata.name
    memory = context.memory(name)
    if work.claim is not None and (memory.token is None or memory.token[0] != work.claim):
        there, token = await context.tokens.get(name, work.claim)
        if not there:
            # Not acknowledged yet, so the queue offers it again, with a token.
            message = "the session token was removed before the work was acknowledged"
            return await give_up(context, resource, "TokenMissing", Reason.AWAITING_CLAIM, message)
        memory.token = (work.claim, token)
    if work.id is None or not await context.queue.acknowledge(work.id):
        return await give_up(context, resource, "WorkLost", Reason.WORK_LOST, _TAKEN)
    await context.write_status(
        resource,
        phase=phase_of(Reason.STARTING_WORKER),
        verdicts=verdicts_of(Reason.STARTING_WORKER, "", SandboxState.RUNNING),
        work={"acknowledgedAt": context.now(), "attempts": 1},
        sandbox={"state": str(SandboxState.RUNNING)},
    )
    return None


async def give_up(
    context: Context, resource: ManagedSession, exit_reason: str, reason: Reason, message: str = ""
) -> float | None:
    """End the claim without a worker's exit; the sandbox is paused by the next step."""
    await context.runs.forget(resource.metadata.name)
    resource = await context.write_status(
        resource,
        phase=phase_of(reason),
        verdicts=verdicts_of(reason, message, resource.status.sandbox.state),
        work={"finishedAt": context.now(), "exitReason": exit_reason},
        recovery={} if reason is Reason.NO_SESSION_TOKEN else {"suspectedAt": context.now()},
    )
    await context.tokens.delete(resource, resource.status.work.claim)
    if reason is not Reason.IDLE:
        context.event(resource, reason, message, warning=True)
    context.metrics.turns.labels(exit_reason).inc()
    return None
