"""Ends a turn: pauses the sandbox and records the turn in the status."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_api.times import claim_name
from managed_session_runtime.credentials import CredentialError
from managed_session_worker.protocol import CallDeaths, ExitReason, lease_given_back

from managed_session_operator.domain.conditions import ConditionUpdate, conditions_of, phase_of
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.memory_stores import memory_conditions
from managed_session_operator.domain.session import SessionView
from managed_session_operator.domain.turn import Awaited, Inspection
from managed_session_operator.domain.turn_end import Ending, plan_turn_end
from managed_session_operator.domain.usage import Usage, later
from managed_session_operator.domain.worker_run import ExitRecord
from managed_session_operator.steps.call_deaths import count_deaths
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.hooks import before_pause
from managed_session_operator.steps.offers import give_up
from managed_session_operator.steps.outputs import copy_outputs
from managed_session_operator.steps.sandbox_connection import pause_sandbox
from managed_session_operator.steps.snapshot import saved_conditions, saved_sandbox
from managed_session_operator.steps.teardown import record_end

logger = logging.getLogger(__name__)

_RESTART_SECONDS = 1.0


@dataclass(frozen=True)
class _Left:
    """How a worker that has ended left the session and the sandbox.

    Attributes:
        session: the session, None if it does not exist, or why it could not be read.
        over: whether the turn is certainly over.
        sandbox: what to write to `status.sandbox`.
        conditions: conditions to write as well.
    """

    session: SessionView | OperationError | None
    over: bool
    sandbox: dict[str, Any]
    conditions: list[ConditionUpdate]


async def finish(context: Context, resource: ManagedSession) -> float | None:
    """Pause the sandbox of a worker that has ended, read the session once more, and record the turn."""
    work = resource.status.work
    run = context.runs.get(resource.metadata.name, work.claim)
    if run is None or run.record is None:
        return None
    record = run.record
    logger.info(
        "worker ended",
        extra={"session": resource.spec.session_id, "claim": record.claim, "reason": record.reason},
    )
    unstarted = not run.heartbeat and not lease_given_back(record.reason)
    if unstarted and await _is_ours_to_start(context, work.id):
        return await _start_again(context, resource, record)
    if context.inbox.get(resource.spec.session_id) is not None:
        left = await _keep_running(context, resource)
    else:
        left = await _pause(context, resource, run.sandbox_id)
    session = left.session
    if isinstance(session, SessionView) and session.agent_id and resource.spec.agent_id is None:
        resource = await context.records.patch(resource, {"spec": {"agentID": session.agent_id}})
    if record.reason == ExitReason.RESULT_REFUSED and not left.over:
        await _give_up_retries(context, resource)
    resource = await write_finished(
        context,
        resource,
        record.reason,
        left.sandbox,
        record,
        heartbeat=run.heartbeat,
        conditions=left.conditions,
        over=left.over,
        usage=_usage(context, resource, session),
    )
    if not isinstance(session, OperationError):
        await record_end(context, resource, ended=session is None or session.ended, deleted=session is None)
    return None


async def _keep_running(context: Context, resource: ManagedSession) -> _Left:
    """Leave the sandbox as it is: more work is offered already, so the next step would resume it at once."""
    session = await _session(context, resource)
    return _Left(session, over=True, sandbox={"state": str(SandboxState.RUNNING)}, conditions=[])


async def _pause(context: Context, resource: ManagedSession, sandbox_id: str) -> _Left:
    name = resource.metadata.name
    await context.runs.settle(name)
    # Its hook may make outputs, and the pause may take long.
    await before_pause(context, resource)
    copied = await copy_outputs(context, resource)
    session, over, paused = await asyncio.gather(
        _session(context, resource),
        _is_over(context, resource),
        pause_sandbox(context, resource, sandbox_id),
    )
    conditions = saved_conditions(context, resource, paused) if paused is not None else []
    cache = context.cache(name)
    cache.disconnect()
    context.capacity.release(name)
    cache.gone = paused is None
    sandbox = (
        saved_sandbox(paused, context.now()) if paused is not None else {"state": str(SandboxState.PAUSED)}
    )
    return _Left(session, over, sandbox, [*conditions, *copied])


async def _session(context: Context, resource: ManagedSession) -> SessionView | OperationError | None:
    try:
        return await context.sessions.session(resource.spec.session_id)
    except OperationError as error:
        return error


def _usage(
    context: Context, resource: ManagedSession, session: SessionView | OperationError | None
) -> Usage | None:
    """Return what the session has used, from what was read at its turn's end anyway."""
    inspection = context.cache(resource.metadata.name).inspection
    told = inspection.turn.usage if inspection is not None else None
    return later(told, session.usage if isinstance(session, SessionView) else None)


async def _is_over(context: Context, resource: ManagedSession) -> bool:
    """Return whether the turn is certainly over.

    A message may arrive after the worker has decided that it is idle and before its work item is stopped.
    """
    cache, now = context.cache(resource.metadata.name), context.now()
    try:
        turn = await context.sessions.turn(resource.spec.session_id)
    except (OperationError, CredentialError):
        return False
    cache.inspection = Inspection(turn, now, now) if turn is not None else None
    return turn is None or turn.awaited is Awaited.NOBODY


async def _give_up_retries(context: Context, resource: ManagedSession) -> None:
    """Stop the work item of a session whose tool result was refused, if the tool should not run again.

    With an API key the operator then interrupts the session. Without one the item is left alone at first: its
    lease lapses and another worker runs the call again, a limited number of times.
    """
    work, attempts = resource.status.work, resource.status.recovery.attempts
    exhausted = attempts + 1 >= context.settings.recovery_attempts
    if work.id is not None and (context.api_key.possible or exhausted):
        await context.queue.stop_held(work.id)


async def _is_ours_to_start(context: Context, work_id: str | None) -> bool:
    """Return whether the acknowledged item still waits for its first heartbeat.

    The queue does not offer such an item again, so only this operator can serve it.
    """
    return work_id is not None and await context.queue.state(work_id) == "starting"


async def _start_again(context: Context, resource: ManagedSession, record: ExitRecord) -> float | None:
    """Start another worker, under a new claim, after one that ended before it took its lease.

    After several attempts, give the claim up.
    """
    name, work = resource.metadata.name, resource.status.work
    message = f"The worker ended before its first heartbeat ({record.reason})"
    message = f"{message}: {record.message}" if record.message else f"{message}."
    exists, token = await context.tokens.get(name, work.claim or "")
    if exists and work.attempts < context.settings.worker_start_attempts:
        again = claim_name(context.now(), work.claim)
        await context.tokens.put(resource, again, token)
        context.cache(name).token = (again, token)
        context.cache(name).started_at = None
        await context.runs.forget(name)
        resource = await context.records.write_status(
            resource,
            conditions=conditions_of(Reason.STARTING_WORKER, message, SandboxState.RUNNING),
            work={"claim": again, "startedAt": context.now(), "attempts": work.attempts + 1},
        )
        context.event(resource, Reason.WORKER_START_FAILED, message, warning=True)
        return _RESTART_SECONDS * context.settings.retry_scale
    if work.id is not None:
        await context.queue.stop_held(work.id)
    return await give_up(context, resource, ExitReason.START_FAILED, Reason.WORKER_START_FAILED, message)


async def write_finished(
    context: Context,
    resource: ManagedSession,
    exit_reason: str,
    sandbox: dict[str, Any],
    record: ExitRecord | None = None,
    *,
    heartbeat: bool = True,
    conditions: list[ConditionUpdate],
    over: bool = False,
    usage: Usage | None = None,
    deaths: CallDeaths | None = None,
) -> ManagedSession:
    """Record the turn's end and the sandbox's new state in one write, then forget the worker's run.

    Args:
        context: the operator's context.
        resource: the resource.
        exit_reason: why the worker ended.
        sandbox: what to write to `status.sandbox`.
        record: the supervisor's exit record, if there is one.
        heartbeat: whether the worker had the lease.
        conditions: conditions to write as well.
        over: whether the session's turn is certainly over. If not, the session is inspected later.
        usage: what the session has used, if that was read.
        deaths: without a record, the count of tool calls that ended workers.

    Returns:
        The newest resource.
    """
    name, work, inspection = (
        resource.metadata.name,
        resource.status.work,
        context.cache(resource.metadata.name).inspection,
    )
    stop_reason = inspection.turn.stop_reason if over and inspection is not None else ""
    ending = Ending(exit_reason, heartbeat, over, stop_reason, record, usage)
    end = plan_turn_end(resource, ending, context.now(), can_interrupt=context.api_key.possible)
    counted = record.call_deaths if record is not None else deaths or {}
    update = count_deaths(context, resource, counted, over=lease_given_back(exit_reason))
    implied = conditions_of(end.reason, end.message, SandboxState(sandbox["state"]))
    resource = await context.records.write_status(
        resource,
        phase=phase_of(end.reason),
        conditions=[*implied, *conditions, *update.conditions, *memory_conditions(resource, record)],
        usage=usage,
        sandbox=sandbox,
        **end.fields,
        **update.fields,
    )
    update.report(context, resource)
    if heartbeat:
        context.silence.ended(resource)
    await context.runs.forget(name)
    context.cache(name).cuts = 0
    context.metrics.turns.labels(exit_reason).inc()
    if work.first_heartbeat_at is None:
        await context.tokens.delete(resource, work.claim)
    context.event(resource, Reason.WORKER_FINISHED, end.summary, warning=not end.orderly)
    return resource
