"""The claim's worker: started once, listened to, and finished."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import e2b
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_api.times import claim_name
from managed_session_runtime.credentials import CredentialError

from managed_session_operator.clients.sandboxes import SandboxView
from managed_session_operator.clients.work_queue import SessionView
from managed_session_operator.clients.worker_runs import ExitRecord, StartRequest, WorkerRun
from managed_session_operator.context import Context
from managed_session_operator.decisions import GIVEN_BACK, lease_lives
from managed_session_operator.failures import Failure
from managed_session_operator.skills import write_skills
from managed_session_operator.status import Verdict
from managed_session_operator.steps.identity import note_end
from managed_session_operator.steps.sandbox import vanished
from managed_session_operator.steps.snapshot import saved_sandbox, saved_verdicts
from managed_session_operator.steps.standing import phase_of, verdicts_of
from managed_session_operator.steps.work import NO_CREDENTIAL, give_up
from managed_session_operator.stuck import suspected
from managed_session_operator.turns import Awaited, Look

logger = logging.getLogger(__name__)

RESULT_REFUSED = "ResultRefused"
"""Exit reason of a worker whose session waits for a result that Anthropic does not take."""
_RESTART_SECONDS = 1.0
_RECONNECT_SECONDS = 0.1
_STEADY_SECONDS = 60.0
"""A stream that lived so long is no sign of trouble when it is cut."""
_RECONNECT_CAP_SECONDS = 30.0


async def start(context: Context, resource: ManagedSession) -> float | None:
    """Start the claim's worker, or find it started: the supervisor runs at most one per claim."""
    name, work = resource.metadata.name, resource.status.work
    memory = context.memory(name)
    if work.claim is None or work.id is None:
        return await give_up(context, resource, "WorkLost", Reason.WORK_LOST, "the work's ID is not known")
    if memory.sandbox is None:
        return None
    if (delay := await _after_cut(context, name, work.claim)) is not None:
        return delay
    if memory.token is None or memory.token[0] != work.claim:
        there, token = await context.tokens.get(name, work.claim)
        if not there:
            return await _start_without_token(context, resource)
        memory.token = (work.claim, token)
    token = memory.token[1]
    if token is None and not context.settings.allow_environment_key_in_sandbox:
        await context.queue.stop_held(work.id)
        return await give_up(context, resource, "NoSessionToken", Reason.NO_SESSION_TOKEN, NO_CREDENTIAL)
    policy = context.policy(resource)
    request = StartRequest(
        epoch=context.epoch(),
        claim=work.claim,
        session_id=resource.spec.session_id,
        work_id=work.id,
        environment_id=context.queue.environment_id,
        work_secret=token,
        environment_key=context.queue.environment_key if token is None else None,
        base_url=context.queue.base_url,
        max_idle_seconds=policy.max_idle_seconds,
        attach_timeout_seconds=policy.attach_timeout_seconds,
        log_level=policy.log_level,
    )
    await write_skills(context, resource, memory.sandbox)
    try:
        await context.runs.start(name, memory.sandbox, request)
    except Failure:
        # Whether the sandbox still runs is not certain any more: connect to it again first.
        memory.disconnect()
        raise
    memory.started_at = memory.started_at or context.now()
    return None


async def stop_overdue(context: Context, resource: ManagedSession) -> float | None:
    """End a worker that never heartbeated; its exit record then says so, and it is started again.

    It is listened to anew first: the stream may be what is silent.
    """
    name, work = resource.metadata.name, resource.status.work
    memory = context.memory(name)
    if memory.sandbox is not None and work.claim is not None:
        run = await _watch(context, name, memory.sandbox, work.claim)
        if run is None or not (run.heartbeat or run.record):
            await context.runs.stop(memory.sandbox, work.claim, context.epoch())
    memory.started_at = context.now()
    return None


async def _start_without_token(context: Context, resource: ManagedSession) -> float | None:
    """The token's Secret is gone: either the worker was started with it already, or it is lost."""
    name, work = resource.metadata.name, resource.status.work
    sandbox = context.memory(name).sandbox
    if sandbox is not None and work.claim is not None and await _watch(context, name, sandbox, work.claim):
        return None
    if work.id is not None:
        await context.queue.stop_held(work.id)
    return await give_up(
        context,
        resource,
        "TokenLost",
        Reason.WORK_LOST,
        "the session token was removed before the worker had started",
    )


async def record_heartbeat(context: Context, resource: ManagedSession) -> float | None:
    """The worker has taken its lease: from here on only it can serve this claim."""
    now, work = context.now(), resource.status.work
    if work.offered_at is not None:
        context.metrics.offer_to_heartbeat.observe((now - work.offered_at).total_seconds())
    # First: the Secret of a claim that has heartbeated is looked for by nobody any more.
    await context.tokens.delete(resource, work.claim)
    resource = await context.write_status(
        resource,
        phase=phase_of(Reason.RUNNING),
        verdicts=verdicts_of(Reason.RUNNING, "", SandboxState.RUNNING),
        work={"firstHeartbeatAt": now},
        lastActiveTime=now,
    )
    context.memory(resource.metadata.name).token = None
    context.event(resource, Reason.WORKER_STARTED, f"worker started in sandbox {resource.status.sandbox.id}")
    return None


async def reattach(context: Context, resource: ManagedSession) -> float | None:
    """Take up the events of a worker that nobody listens to; a paused sandbox is woken only for live work."""
    name, work = resource.metadata.name, resource.status.work
    memory, sandbox_id = context.memory(name), resource.status.sandbox.id
    if (delay := await _after_cut(context, name, work.claim)) is not None:
        return delay
    view = await context.sandboxes.info(sandbox_id) if sandbox_id is not None else None
    if view is None:
        await vanished(context, resource)
        return None
    context.capacity.hold(name)
    if view.paused:
        # After the worker's end by an operator that then died, by E2B's countdown, in a roll-over, by hand or
        # by an earlier leader that came late.
        memory.disconnect()
        item = await context.queue.item(work.id) if work.id is not None else None
        if item is None or not lease_lives(item, context.now()):
            over = item is None or item.state == "stopped"
            await _write_finished(
                context,
                resource,
                "Released" if over else "SandboxPaused",
                saved_sandbox(view),
                verdicts=saved_verdicts(context, resource, view),
            )
            context.capacity.release(name)
            return None
    timeout = context.policy(resource).timeout_seconds
    connected = await context.sandboxes.connect(view.sandbox_id, timeout)
    since = None if view.paused else view.started_at
    memory.connect(connected, timeout, context.now(), since=since)
    await watch_or_finish(context, resource, connected, view if view.paused else None)
    return None


async def watch_or_finish(
    context: Context, resource: ManagedSession, sandbox: e2b.AsyncSandbox, snapshot: SandboxView | None
) -> None:
    """Take up the worker's events; where there is no such worker (any more), the turn is over.

    Args:
        context: the operator's context.
        resource: the resource.
        sandbox: the sandbox, connected.
        snapshot: what it was resumed from just now, if it was paused.
    """
    name, claim = resource.metadata.name, resource.status.work.claim
    verdicts = saved_verdicts(context, resource, snapshot) if snapshot is not None else []
    saved = saved_sandbox(snapshot) if snapshot is not None else {}
    running = {**saved, "state": str(SandboxState.RUNNING)}
    if claim is not None and await _watch(context, name, sandbox, claim):
        await context.write_status(resource, verdicts=verdicts, sandbox=running)
    else:
        await _write_finished(context, resource, "WorkerVanished", running, verdicts=verdicts)


async def _after_cut(context: Context, name: str, claim: str | None) -> float | None:
    """Seconds to wait before a cut stream is taken up again: none at first, then more and more."""
    run, memory = context.runs.get(name, claim), context.memory(name)
    if run is None or run.cut is None:
        return None
    await context.runs.forget(name)
    memory.cuts = 1 if run.age_seconds() > _STEADY_SECONDS else memory.cuts + 1
    if memory.cuts == 1:
        return None
    return min(_RECONNECT_SECONDS * 2.0**memory.cuts, _RECONNECT_CAP_SECONDS)


async def _watch(context: Context, name: str, sandbox: e2b.AsyncSandbox, claim: str) -> WorkerRun | None:
    """The claim's run, or None when the sandbox's supervisor knows nothing of it.

    A sandbox that does not answer because it is paused or gone says nothing about the claim: that is raised,
    and the next look finds out.
    """
    try:
        return await context.runs.watch(name, sandbox, claim, context.epoch())
    except Failure as failure:
        if "UnknownClaim" in failure.message or "StaleClaim" in failure.message:
            return None
        raise


async def finish(context: Context, resource: ManagedSession) -> float | None:
    """The worker has ended: pause its sandbox, ask once more how the session is, write the turn down."""
    name, work = resource.metadata.name, resource.status.work
    run = context.runs.get(name, work.claim)
    if run is None or run.record is None:
        return None
    record = run.record
    logger.info(
        "worker ended",
        extra={"session": resource.spec.session_id, "claim": record.claim, "reason": record.reason},
    )
    if not run.heartbeat and record.reason not in GIVEN_BACK and await _is_ours_to_start(context, work.id):
        return await _start_again(context, resource, record)
    session: SessionView | Failure | None
    over = True
    if context.inbox.get(resource.spec.session_id) is not None:
        # More work is offered already: the sandbox is needed again at once.
        session, saved = await _session(context, resource), {"state": str(SandboxState.RUNNING)}
        verdicts = []
    else:
        await context.runs.settle(name)
        session, over, paused = await asyncio.gather(
            _session(context, resource),
            _is_over(context, resource),
            context.sandboxes.pause(run.sandbox_id),
        )
        verdicts = saved_verdicts(context, resource, paused) if paused is not None else []
        context.memory(name).disconnect()
        context.capacity.release(name)
        context.memory(name).missing = paused is None
        saved = saved_sandbox(paused) if paused is not None else {"state": str(SandboxState.PAUSED)}
    if isinstance(session, SessionView) and session.agent_id and resource.spec.agent_id is None:
        resource = await context.patch(resource, {"spec": {"agentID": session.agent_id}})
    if record.reason == RESULT_REFUSED and not over:
        await _give_up_retries(context, resource)
    resource = await _write_finished(
        context,
        resource,
        record.reason,
        saved,
        record,
        heartbeat=run.heartbeat,
        verdicts=verdicts,
        over=over,
    )
    if not isinstance(session, Failure):
        await note_end(context, resource, ended=session is None or session.ended, deleted=session is None)
    return None


async def _session(context: Context, resource: ManagedSession) -> SessionView | Failure | None:
    try:
        return await context.queue.session(resource.spec.session_id)
    except Failure as failure:
        return failure


async def _is_over(context: Context, resource: ManagedSession) -> bool:
    """Whether the turn is known to be over: a message may come between the idle decision and the stop."""
    memory, now = context.memory(resource.metadata.name), context.now()
    try:
        turn = await context.queue.turn(resource.spec.session_id)
    except (Failure, CredentialError):
        return False
    memory.look = Look(turn, now, now) if turn is not None else None
    return turn is None or turn.awaited is Awaited.NOBODY


async def _give_up_retries(context: Context, resource: ManagedSession) -> None:
    """Stop the item of a session whose result was refused, when running the tool again is no way out.

    With an API key the session is interrupted instead. Without one the lease lapses and another worker runs
    the call again, a bounded number of times.
    """
    work, attempts = resource.status.work, resource.status.recovery.attempts
    exhausted = attempts + 1 >= context.settings.recovery_attempts
    if work.id is not None and (context.api_key.possible or exhausted):
        await context.queue.stop_held(work.id)


async def _is_ours_to_start(context: Context, work_id: str | None) -> bool:
    """Whether the acknowledged item still waits for its first heartbeat: nobody else would ever serve it."""
    return work_id is not None and await context.queue.state(work_id) == "starting"


async def _start_again(context: Context, resource: ManagedSession, record: ExitRecord) -> float | None:
    """The worker ended before it took its lease: try again under a new name, a bounded number of times."""
    name, work = resource.metadata.name, resource.status.work
    message = f"the worker ended before its first heartbeat ({record.reason}): {record.message or ''}"
    there, token = await context.tokens.get(name, work.claim or "")
    if there and work.attempts < context.settings.worker_start_attempts:
        again = claim_name(context.now(), work.claim)
        await context.tokens.put(resource, again, token)
        context.memory(name).token = (again, token)
        context.memory(name).started_at = None
        await context.runs.forget(name)
        resource = await context.write_status(
            resource,
            verdicts=verdicts_of(Reason.STARTING_WORKER, message, SandboxState.RUNNING),
            work={"claim": again, "attempts": work.attempts + 1},
        )
        context.event(resource, Reason.WORKER_START_FAILED, message, warning=True)
        return _RESTART_SECONDS * context.settings.retry_scale
    if work.id is not None:
        await context.queue.stop_held(work.id)
    return await give_up(context, resource, "StartFailed", Reason.WORKER_START_FAILED, message)


def _counts(record: ExitRecord | None) -> str:
    """What the worker did, for people."""
    if record is None:
        return ""
    failed = f", {record.tool_errors} of them in an error" if record.tool_errors else ""
    refused = f", {record.results_refused} results refused" if record.results_refused else ""
    return f", {record.tool_calls} tool calls{failed}{refused}"


async def _write_finished(
    context: Context,
    resource: ManagedSession,
    exit_reason: str,
    sandbox: dict[str, Any],
    record: ExitRecord | None = None,
    *,
    heartbeat: bool = True,
    verdicts: list[Verdict],
    over: bool = False,
) -> ManagedSession:
    """Write the turn down, with what became of its sandbox, and forget its run.

    A turn that is not known to be over is looked at again.
    """
    name, now, work = resource.metadata.name, context.now(), resource.status.work
    given_back = exit_reason in GIVEN_BACK
    if given_back:
        reason = Reason.IDLE if over else Reason.AWAITING_CLAIM
        message = "" if over else "the worker ended and the turn is not known to be over"
    else:
        reason = Reason.AWAITING_LEASE
        message = f"the worker ended ({exit_reason}) and its lease has not lapsed yet"
    first = {"firstHeartbeatAt": now} if heartbeat and work.first_heartbeat_at is None else {}
    served = heartbeat and exit_reason != "NoMessage"
    resource = await context.write_status(
        resource,
        phase=phase_of(reason),
        verdicts=[*verdicts_of(reason, message, SandboxState(sandbox["state"])), *verdicts],
        work={"finishedAt": now, "exitReason": exit_reason, **first},
        sandbox=sandbox,
        recovery=_recovery(context, resource, exit_reason, over=over),
        turns=resource.status.turns + (1 if served else 0),
        lastActiveTime=now,
    )
    await context.runs.forget(name)
    context.memory(name).cuts = 0
    context.metrics.turns.labels(exit_reason).inc()
    if work.first_heartbeat_at is None:
        await context.tokens.delete(resource, work.claim)
    context.event(
        resource,
        Reason.WORKER_FINISHED,
        f"worker ended: {exit_reason}{_counts(record)}",
        warning=not given_back,
    )
    return resource


def _recovery(
    context: Context, resource: ManagedSession, exit_reason: str, *, over: bool
) -> dict[str, object]:
    """`status.recovery` after a worker's end; nothing is written where a turn ends as it should."""
    recovery, now = resource.status.recovery, context.now()
    if over:
        event = resource.status.last_event
        # By another clock than ours; a turn that is over has answered what was announced during it.
        early = event is not None and event.created_at > now
        checked = event.created_at if event is not None and early else now
        return {"checkedAt": checked, "attempts": 0} if early or suspected(resource) else {}
    again = exit_reason == RESULT_REFUSED and not context.api_key.possible
    return {"suspectedAt": now, "attempts": recovery.attempts + (1 if again else 0)}
