"""Sessions that nobody serves and whose turn is not known to be over."""

from __future__ import annotations

import logging

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.context import Context
from managed_session_operator.decisions import has_hint
from managed_session_operator.failures import Failure
from managed_session_operator.steps.standing import phase_of, verdicts_of
from managed_session_operator.stuck import STRANDED, suspected
from managed_session_operator.turns import Awaited, Look

logger = logging.getLogger(__name__)


async def look(context: Context, resource: ManagedSession) -> float | None:
    """Read how the session's turn stands, and settle the suspicion when it is over."""
    memory, now = context.memory(resource.metadata.name), context.now()
    turn = await context.queue.turn(resource.spec.session_id)
    if turn is None:
        # Where there is a session all the same, it is looked at again after the next sweep.
        memory.end_check_due, memory.acted_at = True, now
        return None
    memory.look = memory.look.again(turn, now) if memory.look is not None else Look(turn, now, now)
    if turn.awaited is Awaited.NOBODY and (suspected(resource) or has_hint(resource)):
        event = resource.status.last_event
        checked = max(now, event.created_at) if event is not None else now
        await context.write_status(resource, recovery={"checkedAt": checked, "attempts": 0})
    return None


async def recover(context: Context, resource: ManagedSession) -> float | None:
    """Stop what holds the session's work and, where an API key is configured, interrupt the session.

    Anthropic queues the work again then. The message of the turn that was stuck is not sent again.
    """
    name, session_id = resource.metadata.name, resource.spec.session_id
    memory, items = context.memory(name), context.work_list
    item = items.of_session(session_id) if items is not None else None
    stranded = item is not None and item.unstarted and memory.unstarted_since is not None
    unserved = memory.look is not None and memory.look.turn.needs_worker
    if unserved and not suspected(resource):
        # Before anything is done: what is cut off here must be found again.
        resource = await context.write_status(resource, recovery={"suspectedAt": context.now()})
    if item is not None and stranded:
        if await context.queue.state(item.work_id) != "starting":
            # It began after all, or somebody stopped it: the next list says more.
            memory.unstarted_since, memory.acted_at = None, context.now()
            return None
        await context.queue.stop(item.work_id)
        logger.warning("stopped stranded work", extra={"session": session_id, "work": item.work_id})
        context.event(
            resource, Reason.WORK_STRANDED, "acknowledged work without a worker stopped", warning=True
        )
        context.metrics.recoveries.labels("stopped").inc()
    memory.acted_at, memory.unstarted_since = context.now(), None
    if not unserved:
        return None
    recovery = resource.status.recovery
    possible = context.api_key.possible and recovery.attempts < context.settings.recovery_attempts
    if possible:
        await _interrupt(context, resource)
    attempts = recovery.attempts + (1 if possible else 0)
    reason, message = (
        (Reason.RECOVERING, f"user.interrupt was sent (attempt {attempts})")
        if possible
        else (Reason.WORK_STRANDED, STRANDED)
    )
    await context.write_status(
        resource,
        phase=phase_of(reason),
        verdicts=verdicts_of(reason, message, resource.status.sandbox.state),
        recovery={"suspectedAt": context.now(), "attempts": attempts},
    )
    return None


async def _interrupt(context: Context, resource: ManagedSession) -> None:
    """Interrupt the session. A session that takes no interrupt may have ended: ask about that first."""
    try:
        await context.api_key.interrupt(resource.spec.session_id)
    except Failure as failure:
        if failure.status in (400, 404):
            context.memory(resource.metadata.name).end_check_due = True
        raise
    context.metrics.recoveries.labels("interrupted").inc()
    context.event(
        resource,
        Reason.SESSION_INTERRUPTED,
        "the session was stuck: user.interrupt sent; its unanswered message is not sent again",
        warning=True,
    )
