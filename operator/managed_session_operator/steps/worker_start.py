"""Starts the claim's worker, and starts it again as long as it has not taken its lease."""

from __future__ import annotations

from datetime import datetime, timedelta

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_worker.protocol import ExitReason, RefusalCode, StartRequest
from pydantic import SecretStr

from managed_session_operator.domain.conditions import conditions_of, phase_of
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.idle_patience import idle_seconds
from managed_session_operator.domain.turn_trace import exemplar_of, worker_traceparent
from managed_session_operator.domain.worker_run import SupervisorRefusedError
from managed_session_operator.steps.call_deaths import count_deaths, deaths_of
from managed_session_operator.steps.command_variables import Surroundings, surroundings
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.offers import NO_CREDENTIAL, give_up, held_token
from managed_session_operator.steps.sandbox_connection import handle_no_answer
from managed_session_operator.steps.skills import write_skills
from managed_session_operator.steps.worker_stream import reconnect_delay, watch

_BUSY_SECONDS = 2.0
"""Delay after the supervisor refused a start because an earlier worker still serves late."""
_LATE_START = timedelta(seconds=5)
"""A start that succeeds later than this after `startedAt` is recorded in a write of its own."""


async def start(context: Context, resource: ManagedSession) -> float | None:
    """Start the claim's worker.

    It is safe to repeat: the supervisor runs at most one worker per claim.
    """
    name, work = resource.metadata.name, resource.status.work
    cache = context.cache(name)
    if work.claim is None or work.id is None:
        return await give_up(
            context, resource, ExitReason.WORK_LOST, Reason.WORK_LOST, "The work item's ID is unknown."
        )
    if cache.sandbox is None:
        return None
    if (delay := await reconnect_delay(context, name, work.claim)) is not None:
        return delay
    known = cache.token
    held = await held_token(context, name, work.claim)
    if held is None:
        return await _start_without_token(context, resource)
    taken_over, token = held is not known, held[1]
    if token is None and not context.settings.allow_environment_key_in_sandbox:
        await context.queue.stop_held(work.id)
        return await give_up(
            context, resource, ExitReason.NO_SESSION_TOKEN, Reason.NO_SESSION_TOKEN, NO_CREDENTIAL
        )
    around = await surroundings(context, context.policy(resource))
    request = _start_request(context, resource, work.claim, work.id, token, around)
    try:
        resource = await write_skills(context, resource, cache.sandbox)
        cache.unprepared = None
        await context.runs.start(name, cache.sandbox, request)
    except OperationError as error:
        if isinstance(error, SupervisorRefusedError) and error.code is RefusalCode.BUSY:
            return _BUSY_SECONDS
        # The sandbox may not be running any more. The next step connects to it again first.
        await handle_no_answer(context, resource, error)
        raise
    cache.unanswered = 0
    if cache.started_at is None:
        # The time for which an earlier leader has waited for the heartbeat counts too.
        since = work.started_at if taken_over else None
        cache.started_at = await _write_start(context, resource, since or context.now())
    return None


def _start_request(
    context: Context,
    resource: ManagedSession,
    claim: str,
    work_id: str,
    token: SecretStr | None,
    around: Surroundings,
) -> StartRequest:
    """Return what the supervisor is asked for; without a session token it gets the environment key."""
    policy = context.policy(resource)
    return StartRequest(
        epoch=context.epoch(),
        claim=claim,
        session_id=resource.spec.session_id,
        work_id=work_id,
        environment_id=context.queue.environment_id,
        work_secret=token.get_secret_value() if token is not None else None,
        environment_key=context.queue.environment_key.get_secret_value() if token is None else None,
        base_url=context.queue.base_url,
        max_idle_seconds=idle_seconds(resource, policy),
        attach_timeout_seconds=policy.attach_timeout_seconds,
        tool_call_attempts=context.settings.tool_call_attempts,
        call_deaths=deaths_of(resource),
        max_parallel_calls=policy.max_parallel_calls or context.settings.max_parallel_calls,
        log_level=policy.log_level,
        environment=around.variables,
        proxy=around.proxy,
        certificate_authorities=around.authorities,
        traceparent=worker_traceparent(resource),
        report_calls=context.audit is not None or exemplar_of(resource) is not None,
    )


async def _write_start(context: Context, resource: ManagedSession, since: datetime) -> datetime:
    """Record since when the worker has been starting, unless the recorded time is close to it."""
    written = resource.status.work.started_at
    if written is None or since - written > _LATE_START:
        await context.records.write_status(resource, work={"startedAt": since})
    return since


async def stop_overdue(context: Context, resource: ManagedSession) -> float | None:
    """Stop a worker that has not sent a heartbeat in time. Its exit record then leads to a new start.

    First its stream is opened anew, because the worker may be fine and only the stream silent.
    """
    name, work = resource.metadata.name, resource.status.work
    cache = context.cache(name)
    if cache.sandbox is not None and work.claim is not None:
        run = await watch(context, name, cache.sandbox, work.claim)
        if run is None or not (run.heartbeat or run.record):
            await context.runs.stop(cache.sandbox, work.claim, context.epoch())
    cache.started_at = context.now()
    return None


async def _start_without_token(context: Context, resource: ManagedSession) -> float | None:
    """Handle a missing token Secret: either the worker was already started with the token, or it is lost."""
    name, work = resource.metadata.name, resource.status.work
    sandbox = context.cache(name).sandbox
    if sandbox is not None and work.claim is not None and await watch(context, name, sandbox, work.claim):
        return None
    if work.id is not None:
        await context.queue.stop_held(work.id)
    return await give_up(
        context,
        resource,
        ExitReason.TOKEN_LOST,
        Reason.WORK_LOST,
        "The session token was deleted before the worker had started.",
    )


async def record_heartbeat(context: Context, resource: ManagedSession) -> float | None:
    """Record that the worker has taken its lease. From here on only this worker can serve the claim."""
    now, work = context.now(), resource.status.work
    if work.offered_at is not None:
        seconds = (now - work.offered_at).total_seconds()
        context.metrics.offer_to_heartbeat.observe(seconds, exemplar=exemplar_of(resource))
    # Before the status write: afterwards no step would find and delete the Secret any more.
    await context.tokens.delete(resource, work.claim)
    run = context.runs.get(resource.metadata.name, work.claim)
    update = count_deaths(context, resource, run.call_deaths if run is not None else {})
    resource = await context.records.write_status(
        resource,
        phase=phase_of(Reason.RUNNING),
        conditions=[*conditions_of(Reason.RUNNING, "", SandboxState.RUNNING), *update.conditions],
        work={"firstHeartbeatAt": now},
        lastActiveTime=now,
        **update.fields,
    )
    update.report(context, resource)
    context.cache(resource.metadata.name).token = None
    context.event(
        resource, Reason.WORKER_STARTED, f"Started the worker in sandbox {resource.status.sandbox.id}."
    )
    return None
