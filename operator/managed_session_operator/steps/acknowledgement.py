"""Acknowledges claimed work, once its sandbox is ready."""

from __future__ import annotations

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_worker.protocol import ExitReason

from managed_session_operator.domain.conditions import conditions_of, phase_of
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.offers import give_up, held_token, is_stopped_in_a_turn
from managed_session_operator.steps.worker_stream import watch

_TAKEN = (
    "The work was stopped, or another worker took it, before the session's worker had started. Send another "
    "message, or `user.interrupt` if the session accepts none."
)


async def acknowledge(context: Context, resource: ManagedSession) -> float | None:
    """Take the item off the queue, now that the sandbox is ready. From here on the operator must serve it.

    An item that somebody has stopped is served too, if its session's turn is open. The acknowledgement is
    recorded with the worker's first heartbeat, which usually follows soon. So an earlier leader may have
    acknowledged the work and started its worker, although the resource does not say so.
    """
    name, work, cache = resource.metadata.name, resource.status.work, context.cache(resource.metadata.name)
    if work.claim is None:
        return None
    inherited = cache.token is None or cache.token[0] != work.claim
    if not (inherited and await _is_started(context, name, work.claim)):
        if await held_token(context, name, work.claim) is None:
            # The work is not acknowledged yet, so the queue offers it again with a token.
            message = "The session token was deleted before the work was acknowledged."
            return await give_up(context, resource, ExitReason.TOKEN_MISSING, Reason.AWAITING_CLAIM, message)
        ours = work.id is not None and (
            await context.queue.acknowledge(work.id) or await is_stopped_in_a_turn(context, resource, work.id)
        )
        if not ours:
            return await give_up(context, resource, ExitReason.WORK_LOST, Reason.WORK_LOST, _TAKEN)
    now = context.now()
    context.records.hold_status(
        resource,
        phase=phase_of(Reason.STARTING_WORKER),
        conditions=conditions_of(Reason.STARTING_WORKER, "", SandboxState.RUNNING),
        work={"acknowledgedAt": now, "startedAt": now, "attempts": 1},
        sandbox={"state": str(SandboxState.RUNNING)},
    )
    return None


async def _is_started(context: Context, name: str, claim: str) -> bool:
    """Return whether the claim's worker was started in the connected sandbox, and listen to it if it was."""
    sandbox = context.cache(name).sandbox
    return sandbox is not None and await watch(context, name, sandbox, claim) is not None
