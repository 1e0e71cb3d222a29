"""Pauses the sandbox of a session that waits for its user, looks for the answer, and goes on with it."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_worker.protocol import ExitReason

from managed_session_operator.domain import user_wait
from managed_session_operator.domain.conditions import conditions_of, phase_of
from managed_session_operator.domain.decide import lease_lives
from managed_session_operator.domain.step import Decision, Step
from managed_session_operator.domain.turn import Awaited
from managed_session_operator.domain.work_item import WorkItem
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.report_conditions import report_conditions
from managed_session_operator.steps.sandbox_connection import pause_sandbox
from managed_session_operator.steps.sandbox_loss import record_loss
from managed_session_operator.steps.shared_sandbox import runs_for_others
from managed_session_operator.steps.snapshot import saved_conditions, saved_sandbox
from managed_session_operator.steps.turn_end import write_finished
from managed_session_operator.steps.waiting import wait_for_slot, waiting_since
from managed_session_operator.steps.worker_stream import resume_under_worker

logger = logging.getLogger(__name__)

_LEASE_MARGIN = timedelta(seconds=30)
"""A lease that ends sooner is left to lapse: the resume takes time, and two clocks differ."""
_UNHELD_RESYNCS = 1 / 3
"""How long an answer that is known may take to queue the session's work, in resyncs."""
_AGAIN_SECONDS = 5.0
_NOT_ANSWERED = (Awaited.USER, Awaited.UNKNOWN)


async def pause_wait(context: Context, resource: ManagedSession) -> float | None:
    """Pause the sandbox under its worker, unless the session no longer waits. Safe to repeat.

    An answer may arrive at any moment. It reaches the worker before the pause, or is found right after it:
    then the worker is resumed while its lease lives, and goes on where it was.
    """
    name, work = resource.metadata.name, resource.status.work
    cache, sandbox_id = context.cache(name), resource.status.sandbox.id
    turn = await context.sessions.turn(resource.spec.session_id)
    if turn is None:
        cache.end_check_due = True
        return _AGAIN_SECONDS * context.settings.retry_scale
    if turn.awaited is not Awaited.USER:
        # The worker reports what happens to it. If this step was cut off earlier, it is listened to again.
        cache.wait_pause_not_before = context.now() + _interval(context)
        _found(context, resource, answered=True)
        return None
    if sandbox_id is None:
        return None
    if work.wait_paused_at is None:
        resource = await context.records.write_status(
            resource, work={"waitPausedAt": context.now(), "waitResumedAt": None}
        )
        cache.note_wait(resource, context.now())
    await context.runs.forget(name)
    view = await pause_sandbox(context, resource, sandbox_id)
    cache.disconnect()
    if view is None:
        await record_loss(context, resource)
        return None
    context.capacity.release(name)
    # The answer may have come while E2B saved the machine.
    cache.wait_checked = None
    conditions = saved_conditions(context, resource, view)
    paused = resource.model_copy(
        update={
            "status": resource.status.model_copy(
                update={"sandbox": resource.status.sandbox.model_copy(update={"state": SandboxState.PAUSED})}
            )
        }
    )
    message = user_wait.message(paused) or ""
    resource = await context.records.write_status(
        resource,
        phase=phase_of(Reason.AWAITING_USER),
        conditions=[*conditions_of(Reason.AWAITING_USER, message, SandboxState.PAUSED), *conditions],
        usage=turn.usage,
        sandbox=saved_sandbox(view, context.now()),
    )
    logger.info("sandbox paused while its user is awaited", extra={"resource": name, "sandbox": sandbox_id})
    context.metrics.user_waits.pauses.labels("paused").inc()
    context.event(resource, Reason.AWAITING_USER, message)
    return None


async def check_answer(context: Context, resource: ManagedSession) -> float | None:
    """Read whether the session's user has answered, or interrupted the turn, or the session has ended."""
    cache = context.cache(resource.metadata.name)
    turn = await context.sessions.turn(resource.spec.session_id)
    _found(context, resource, answered=turn is not None and turn.awaited not in _NOT_ANSWERED)
    if turn is None or turn.awaited is Awaited.NOBODY:
        # It may have ended. Then nothing is resumed for it.
        cache.end_check_due = True
    return None


def _found(context: Context, resource: ManagedSession, *, answered: bool) -> None:
    cache, event = context.cache(resource.metadata.name), resource.status.last_event
    cache.wait_checked = (context.now(), event.id if event is not None else None)
    cache.wait_answered = resource.status.work.claim if answered else None


async def resume_wait(context: Context, resource: ManagedSession) -> float | None:
    """Go on with the answer, if no offer of the session's work is there.

    The worker is resumed while it holds its lease. If its item is neither queued nor held, it is resumed as
    well, and serves without a lease. Otherwise the queue is about to offer the work.
    """
    name, work = resource.metadata.name, resource.status.work
    cache, now = context.cache(name), context.now()
    item = await context.queue.item(work.id) if work.id is not None else None
    unheld = item is None or item.state == "stopped"
    cache.wait_unheld_since = (cache.wait_unheld_since or now) if unheld else None
    if resource.status.sandbox.id is None:
        return await _go_on_elsewhere(context, resource, unheld=unheld)
    if not _may_resume(context, item, cache.wait_unheld_since, now):
        context.capacity.release(name)
        return await _await_offer(context, resource)
    class_name = context.class_name(resource)
    if await runs_for_others(context, resource):
        # Its worker has read the answer already, and works.
        context.capacity.hold(name, class_name)
    elif not context.capacity.ask(name, waiting_since(context, resource), class_name=class_name):
        return await wait_for_slot(context, resource)
    resumed = await resume_under_worker(context, resource)
    if resumed is None:
        return None
    cache.note_wait(resumed, now)
    cache.wait_pause_not_before = context.now() + _interval(context)
    context.metrics.user_waits.pauses.labels("resumed").inc()
    message = f"The session's user has answered. Resumed sandbox {resource.status.sandbox.id}."
    context.event(resumed, Reason.SANDBOX_RESUMED, message)
    return None


def _may_resume(
    context: Context, item: WorkItem | None, unheld_since: datetime | None, now: datetime
) -> bool:
    """Return whether the worker still holds its lease, or nobody does and no work is being queued."""
    if unheld_since is not None:
        return now - unheld_since >= _interval(context) * _UNHELD_RESYNCS
    return item is not None and lease_lives(item, now + _LEASE_MARGIN)


async def _go_on_elsewhere(context: Context, resource: ManagedSession, *, unheld: bool) -> float | None:
    """Wait for the offer of the work whose sandbox has vanished. Without any, the session may be stuck."""
    if not unheld:
        return await _await_offer(context, resource)
    sandbox = {"state": str(resource.status.sandbox.state or SandboxState.LOST)}
    await write_finished(context, resource, ExitReason.SANDBOX_VANISHED, sandbox, conditions=[])
    return None


async def _await_offer(context: Context, resource: ManagedSession) -> float | None:
    """Report that the answer is there and the work is not offered yet. An offer wakes the resource."""
    message = "The session's user has answered. The session's work is about to be offered again."
    await report_conditions(context, resource, Decision(Step.WAIT, Reason.AWAITING_CLAIM, message))
    return (_interval(context) * _UNHELD_RESYNCS).total_seconds()


def _interval(context: Context) -> timedelta:
    return timedelta(seconds=context.settings.resync_interval_seconds)
