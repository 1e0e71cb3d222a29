"""Opens the stream of a worker's events again after a cut, a restart of the operator or a roll-over."""

from __future__ import annotations

from datetime import datetime

from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_worker.protocol import ExitReason, RefusalCode

from managed_session_operator.capacity.class_shares import class_name_of
from managed_session_operator.domain.decide import lease_lives
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.domain.user_wait import is_paused
from managed_session_operator.domain.work_item import WorkItem
from managed_session_operator.domain.worker_run import SupervisorRefusedError, WorkerRun
from managed_session_operator.steps.call_deaths import one_more_death
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.sandbox_connection import connect, handle_no_answer, pause_sandbox
from managed_session_operator.steps.sandbox_loss import record_loss
from managed_session_operator.steps.shared_sandbox import settled_view
from managed_session_operator.steps.snapshot import saved_conditions, saved_sandbox
from managed_session_operator.steps.turn_end import write_finished

_RECONNECT_SECONDS = 0.1
_STEADY_SECONDS = 60.0
"""A stream that has lived this long is opened again without a delay when it is cut."""
_RECONNECT_CAP_SECONDS = 30.0


async def reattach(context: Context, resource: ManagedSession) -> float | None:
    """Open the event stream of a running worker again.

    A paused sandbox is resumed only if its worker still holds the lease or serves late. Otherwise the turn is
    recorded as ended.
    """
    name = resource.metadata.name
    if (delay := await reconnect_delay(context, name, resource.status.work.claim)) is not None:
        return delay
    view = await _settled_view(context, resource)
    if view is None:
        await record_loss(context, resource)
        return None
    context.capacity.hold(name, class_name_of(resource))
    if view.paused:
        resumable = await _prepare_resume(context, resource, view)
        if resumable is None:
            return None
        resource = resumable
    elif resource.status.sandbox.shared_by is not None:
        # Another session may have resumed it since this worker was last listened to.
        context.cache(name).resume_unreported = True
    await _connect_and_watch(context, resource, view)
    return None


async def _settled_view(context: Context, resource: ManagedSession) -> SandboxView | None:
    """Return the sandbox, after any pause that is in progress; None if it does not exist any more."""
    sandbox_id = resource.status.sandbox.id
    view = await context.sandboxes.info(sandbox_id) if sandbox_id is not None else None
    if view is not None and view.paused and view.end_at > context.now():
        if resource.status.sandbox.shared_by is not None:
            return await settled_view(context, resource, view.sandbox_id)
        return await pause_sandbox(context, resource, view.sandbox_id)
    return view


async def _prepare_resume(
    context: Context, resource: ManagedSession, paused: SandboxView
) -> ManagedSession | None:
    """Prepare the resume of a paused sandbox. Return None if its worker has ended, which is then recorded.

    The sandbox was paused by an operator that died after the worker's end or during a roll-over, by a late
    leader, by E2B's countdown, or by hand.
    """
    name, work = resource.metadata.name, resource.status.work
    cache = context.cache(name)
    cache.disconnect()
    item = await context.queue.item(work.id) if work.id is not None else None
    now = context.now()
    conditions, saved = saved_conditions(context, resource, paused), saved_sandbox(paused, now)
    if work.serving_late_since is None and (ended := _why_ended(item, now)) is not None:
        await write_finished(context, resource, ended, saved, conditions=conditions)
        context.capacity.release(name)
        return None
    if conditions:
        # Recorded before the resume, after which E2B no longer shows that the sandbox was rolled back.
        resource = await context.records.write_status(resource, conditions=conditions, sandbox=saved)
    cache.resume_unreported = True
    return resource


def _why_ended(item: WorkItem | None, now: datetime) -> ExitReason | None:
    """Return why the worker of a paused sandbox has ended; None if it still holds its lease."""
    if item is None or item.state == "stopped":
        return ExitReason.RELEASED
    return None if lease_lives(item, now) else ExitReason.SANDBOX_PAUSED


async def resume_under_worker(context: Context, resource: ManagedSession) -> ManagedSession | None:
    """Resume the sandbox, if it is paused, and listen to its worker. Return the newest resource.

    None if the sandbox has vanished, which is then recorded.
    """
    name = resource.metadata.name
    view = await _settled_view(context, resource)
    if view is None:
        await record_loss(context, resource)
        return None
    cache = context.cache(name)
    await context.runs.forget(name)
    cache.disconnect()
    if view.paused and (conditions := saved_conditions(context, resource, view)):
        # Recorded before the resume, after which E2B no longer shows that the sandbox was rolled back.
        resource = await context.records.write_status(
            resource, conditions=conditions, sandbox=saved_sandbox(view, context.now())
        )
    cache.resume_unreported = True
    await _connect_and_watch(context, resource, view)
    return context.records.cache.get(name)


async def _connect_and_watch(context: Context, resource: ManagedSession, view: SandboxView) -> None:
    reached = await connect(context, resource, view.sandbox_id)
    if reached is None:
        return
    resource, connected = reached
    cache, timeout = context.cache(resource.metadata.name), context.policy(resource).timeout_seconds
    cache.connect(connected, timeout, context.now(), since=None if view.paused else view.started_at)
    try:
        await watch_or_finish(context, resource, connected, view if view.paused else None)
    except OperationError as error:
        await handle_no_answer(context, resource, error)
        raise
    cache.unanswered = 0


async def watch_or_finish(
    context: Context, resource: ManagedSession, sandbox: SandboxHandle, snapshot: SandboxView | None
) -> None:
    """Open the worker's event stream. If the sandbox has no such worker, record the turn's end.

    Args:
        context: the operator's context.
        resource: the resource.
        sandbox: the connected sandbox.
        snapshot: the paused sandbox from which it was just resumed; None if it was running.
    """
    name, claim = resource.metadata.name, resource.status.work.claim
    cache = context.cache(name)
    conditions = saved_conditions(context, resource, snapshot) if snapshot is not None else []
    saved = saved_sandbox(snapshot, context.now()) if snapshot is not None else {}
    running = {**saved, "state": str(SandboxState.RUNNING)}
    if claim is not None and await watch(context, name, sandbox, claim, resumed=cache.resume_unreported):
        cache.resume_unreported = False
        resumed = {"waitPausedAt": None, "waitResumedAt": context.now()} if is_paused(resource) else {}
        await context.records.write_status(resource, conditions=conditions, sandbox=running, work=resumed)
    else:
        deaths = await one_more_death(context, resource, "it vanished from its sandbox")
        await write_finished(
            context, resource, ExitReason.WORKER_VANISHED, running, conditions=conditions, deaths=deaths
        )


async def reconnect_delay(context: Context, name: str, claim: str | None) -> float | None:
    """Forget a stream that was cut. Return the seconds to wait before it is opened again, if any.

    The first cut causes no delay; further ones cause growing delays.
    """
    run, cache = context.runs.get(name, claim), context.cache(name)
    if run is None or run.cut is None:
        return None
    await context.runs.forget(name)
    cache.cuts = 1 if run.age_seconds() > _STEADY_SECONDS else cache.cuts + 1
    if cache.cuts == 1:
        return None
    return min(_RECONNECT_SECONDS * 2.0**cache.cuts, _RECONNECT_CAP_SECONDS)


async def watch(
    context: Context, name: str, sandbox: SandboxHandle, claim: str, *, resumed: bool = False
) -> WorkerRun | None:
    """Open the stream of the claim's worker. Return None if the supervisor does not know the claim.

    Raises:
        OperationError: the sandbox did not answer, which says nothing about the claim.
    """
    try:
        return await context.runs.watch(name, sandbox, claim, context.epoch(), resumed=resumed)
    except SupervisorRefusedError as refusal:
        if refusal.code in (RefusalCode.UNKNOWN_CLAIM, RefusalCode.STALE_CLAIM):
            return None
        raise
