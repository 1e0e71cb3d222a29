"""Inspects sessions that may be stuck, and recovers those that are."""

from __future__ import annotations

import logging

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.conditions import conditions_of, phase_of
from managed_session_operator.domain.decide import has_announced_run
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.observe import findings_for
from managed_session_operator.domain.recovery import STRANDED, suspected
from managed_session_operator.domain.turn import Awaited, Inspection
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)


async def inspect_session(context: Context, resource: ManagedSession) -> float | None:
    """Read the state of the session's turn. If the turn is over, record that the session is not stuck."""
    cache, now = context.cache(resource.metadata.name), context.now()
    turn = await context.sessions.turn(resource.spec.session_id)
    if turn is None:
        # The session seems to be deleted, which is confirmed first. If it exists after all, it is inspected
        # again after the next resync.
        cache.end_check_due, cache.acted_at = True, now
        return None
    cache.inspection = (
        cache.inspection.again(turn, now) if cache.inspection is not None else Inspection(turn, now, now)
    )
    if turn.awaited is Awaited.NOBODY and (suspected(resource) or has_announced_run(resource)):
        event = resource.status.last_event
        checked = max(now, event.created_at) if event is not None else now
        await context.records.write_status(
            resource,
            usage=turn.usage,
            work={"stopReason": turn.stop_reason or None},
            recovery={"checkedAt": checked, "attempts": 0},
        )
    return None


async def recover(context: Context, resource: ManagedSession) -> float | None:
    """Stop a stranded work item and, if an API key is configured, interrupt the session.

    Anthropic then queues the session's work again. The message of the stuck turn is not sent again.
    """
    name = resource.metadata.name
    cache, items = context.cache(name), context.listings.work_list
    item = items.of_session(resource.spec.session_id) if items is not None else None
    found = findings_for(cache, context.listings)
    stranded = item is not None and item.unstarted and name in found.unstarted
    unserved = cache.inspection is not None and cache.inspection.turn.needs_worker
    if unserved and not suspected(resource):
        # Recorded before any effect, so that the next leader goes on if this one dies in between.
        resource = await context.records.write_status(resource, recovery={"suspectedAt": context.now()})
    stuck = unserved
    if item is not None and stranded:
        stuck = await _stop_stranded(context, resource, item.work_id) and unserved
    cache.acted_at = context.now()
    cache.settle(context.listings.findings)
    if stuck:
        await _interrupt_or_report(context, resource)
    return None


async def _stop_stranded(context: Context, resource: ManagedSession, work_id: str) -> bool:
    """Stop a work item for which no worker was started; return False if it is not such an item any more."""
    if await context.queue.state(work_id) != "starting":
        # A worker has started after all, or the item was stopped: the next work list shows which.
        return False
    await context.queue.stop(work_id)
    logger.warning("stopped stranded work", extra={"session": resource.spec.session_id, "work": work_id})
    context.event(
        resource,
        Reason.WORK_STRANDED,
        "Stopped an acknowledged work item for which no worker had been started.",
        warning=True,
    )
    context.metrics.recoveries.labels("stopped").inc()
    return True


async def _interrupt_or_report(context: Context, resource: ManagedSession) -> None:
    """Interrupt the session as often as allowed. After that, report that it is stuck."""
    attempts = resource.status.recovery.attempts
    possible = context.api_key.possible and attempts < context.settings.recovery_attempts
    reason, message = Reason.WORK_STRANDED, STRANDED
    if possible:
        await _interrupt(context, resource)
        attempts += 1
        reason, message = Reason.RECOVERING, f"Sent `user.interrupt` (attempt {attempts})."
    resource = await context.records.write_status(
        resource,
        phase=phase_of(reason),
        conditions=conditions_of(reason, message, resource.status.sandbox.state),
        recovery={"suspectedAt": context.now(), "attempts": attempts},
    )
    if possible:
        sent = "The session was stuck. Sent `user.interrupt`; the unanswered message is not repeated."
        context.event(resource, Reason.SESSION_INTERRUPTED, sent, warning=True)


async def _interrupt(context: Context, resource: ManagedSession) -> None:
    """Interrupt the session. If it accepts no interrupt, it may have ended, which is checked next."""
    try:
        await context.api_key.interrupt(resource.spec.session_id)
    except OperationError as error:
        if error.status in (400, 404):
            context.cache(resource.metadata.name).end_check_due = True
        raise
    context.metrics.recoveries.labels("interrupted").inc()
