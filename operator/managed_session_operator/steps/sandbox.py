"""The session's sandbox: created once per attempt, resumed, extended, paused, found again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import e2b
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_operator.clients.sandboxes import SandboxView
from managed_session_operator.context import Context, Memory
from managed_session_operator.decisions import claim_active
from managed_session_operator.failures import Failure, Kind
from managed_session_operator.policy import idempotency_key, sandbox_marks, sandbox_wishes
from managed_session_operator.status import workspace_lost
from managed_session_operator.steps.snapshot import saved_sandbox, saved_verdicts
from managed_session_operator.steps.standing import phase_of, verdicts_of
from managed_session_operator.steps.waiting import wait_for_creation, wait_for_place, waiting_since

logger = logging.getLogger(__name__)


async def provision(context: Context, resource: ManagedSession) -> float | None:
    """Have the sandbox running: resume the recorded one, or create one, each safe to repeat."""
    name = resource.metadata.name
    memory = context.memory(name)
    claimed = claim_active(resource)
    since, sandbox_id = waiting_since(context, resource), resource.status.sandbox.id
    if not context.capacity.ask(name, since, announced=not claimed):
        return await wait_for_place(context, resource)
    if sandbox_id is None:
        wait = await context.creation.take(name, since, announced=not claimed)
        if wait is not None:
            return await wait_for_creation(context, resource, wait)
    memory.waits_for_creation = False
    ready = (
        _resume(context, resource, memory, sandbox_id)
        if sandbox_id is not None
        else _create(context, resource, memory)
    )
    # Beside it, since E2B takes longer: the worker's start needs to know of the agent's skills.
    await asyncio.gather(ready, _learn_session(context, resource, memory))
    return None


@asynccontextmanager
async def _starting(context: Context, resource: ManagedSession) -> AsyncIterator[None]:
    """A call by which E2B runs one sandbox more: what it answers is what E2B allows."""
    name = resource.metadata.name
    try:
        yield
    except Failure as failure:
        if failure.kind is Kind.QUOTA:
            context.capacity.refused(
                name,
                waiting_since(context, resource),
                announced=not claim_active(resource),
                retry_after=failure.retry_after,
            )
        raise
    context.capacity.started(name)


async def _learn_session(context: Context, resource: ManagedSession, memory: Memory) -> None:
    """Read the session once; without an answer the worker's start asks again."""
    if memory.session is None:
        try:
            memory.session = await context.queue.session(resource.spec.session_id)
        except Failure as failure:
            logger.info("session not read", extra={"cause": str(failure)})


async def _resume(context: Context, resource: ManagedSession, memory: Memory, sandbox_id: str) -> None:
    timeout = context.policy(resource).timeout_seconds
    try:
        async with _starting(context, resource):
            connected = await context.sandboxes.connect(sandbox_id, timeout)
    except Failure as failure:
        if failure.kind is not Kind.GONE:
            raise
        await vanished(context, resource)
        return
    memory.connect(connected, timeout, context.now())
    _log_assigned(resource, sandbox_id, "resumed")
    context.event(resource, Reason.SANDBOX_RESUMED, f"sandbox {sandbox_id} resumed")


async def _create(context: Context, resource: ManagedSession, memory: Memory) -> None:
    sandbox = resource.status.sandbox
    if sandbox.state is not SandboxState.CREATING:
        memory.fresh_attempt = sandbox.attempt + 1
        resource = await context.write_status(
            resource,
            phase=phase_of(Reason.PROVISIONING),
            verdicts=verdicts_of(Reason.PROVISIONING, "", SandboxState.CREATING),
            effective=context.policy(resource).to_json(),
            sandbox={"state": str(SandboxState.CREATING), "attempt": memory.fresh_attempt},
        )
    attempt = resource.status.sandbox.attempt
    certainly_first = memory.fresh_attempt == attempt
    memory.fresh_attempt = None
    new = not resource.may_be_restored or memory.made_here == resource.metadata.uid
    if not (certainly_first and attempt == 1 and new) and await _adopt(context, resource, memory):
        return
    policy = context.policy(resource)
    wishes = sandbox_wishes(resource, policy, attempt, context.installation_id)
    try:
        async with _starting(context, resource):
            created = await context.sandboxes.create(wishes, idempotency_key(resource.metadata.uid, attempt))
    except Failure as failure:
        await _create_failed(context, resource, memory, failure, repeated=not certainly_first)
        return
    if not certainly_first and await context.sandboxes.info(created.sandbox_id) is None:
        # The key was answered with a sandbox that has been killed since.
        await context.write_status(resource, sandbox={"state": None})
        return
    await _record(context, resource, memory, created, attempt=attempt)


async def _create_failed(
    context: Context, resource: ManagedSession, memory: Memory, failure: Failure, *, repeated: bool
) -> None:
    """Settle what a refused create means for its key, then let the failure be told.

    A server records refusals too and answers the same key with them again, so a definite one ends the
    attempt, and so does any answer to a key that was sent before. A request with this key that is still in
    progress, and an outcome that nobody knows, leave it.
    """
    in_progress = failure.status == 409 and "progress" in failure.message.lower()
    definite = failure.definite or (repeated and failure.status is not None)
    if definite and not in_progress:
        if failure.status in (409, 422) and await _adopt(context, resource, memory):
            return
        await context.write_status(resource, sandbox={"state": None})
    raise failure


async def _found(context: Context, resource: ManagedSession) -> list[SandboxView]:
    """The sandboxes of the resource's attempt in E2B's list: newest first, running before paused.

    One of an earlier attempt is never taken again, so that its kill, however late it arrives, hits nothing.
    """
    listed = await context.sandboxes.list(sandbox_marks(resource, context.installation_id))
    views = [view for view in listed if view.attempt >= resource.status.sandbox.attempt]
    return sorted(views, key=lambda view: (-view.attempt, view.paused, -view.started_at.timestamp()))


async def _adopt(context: Context, resource: ManagedSession, memory: Memory) -> bool:
    """Take over a sandbox that an earlier attempt left; the sweep, which looks twice, has the others."""
    views = await _found(context, resource)
    if not views:
        return False
    chosen = views[0]
    async with _starting(context, resource):
        timeout = context.policy(resource).timeout_seconds
        connected = await context.sandboxes.connect(chosen.sandbox_id, timeout)
    await _record(context, resource, memory, connected, attempt=chosen.attempt)
    return True


async def _record(
    context: Context,
    resource: ManagedSession,
    memory: Memory,
    sandbox: e2b.AsyncSandbox,
    *,
    attempt: int,
) -> None:
    """Write the sandbox's ID down: from here on it is the resource's."""
    policy = context.policy(resource)
    resource = await context.write_status(
        resource,
        verdicts=verdicts_of(Reason.PROVISIONING, "", SandboxState.RUNNING),
        sandbox={
            "id": sandbox.sandbox_id,
            "state": str(SandboxState.RUNNING),
            "attempt": attempt,
            "templateID": policy.template,
            "startedAt": context.now(),
            "savedPeriodStartedAt": None,
        },
    )
    memory.connect(sandbox, policy.timeout_seconds, context.now())
    _log_assigned(resource, sandbox.sandbox_id, "created")
    message = f"sandbox {sandbox.sandbox_id} created from {policy.template}"
    context.event(resource, Reason.SANDBOX_CREATED, message)


def _log_assigned(resource: ManagedSession, sandbox_id: str, how: str) -> None:
    logger.info(
        "assigned session",
        extra={
            "session": resource.spec.session_id,
            "sandbox": sandbox_id,
            "resource": resource.metadata.name,
            "how": how,
        },
    )


async def note_vanished(context: Context, resource: ManagedSession) -> float | None:
    """A sweep found the sandbox gone: ask E2B once more, since lists may lag, and say so."""
    sandbox_id = resource.status.sandbox.id
    context.memory(resource.metadata.name).missing = False
    if sandbox_id is not None and await context.sandboxes.info(sandbox_id) is None:
        await vanished(context, resource)
    return None


def _may_hold_files(resource: ManagedSession) -> bool:
    """A worker was or may have been at work, also one whose heartbeat nobody lived to write down."""
    status = resource.status
    return status.turns > 0 or status.last_active_time is not None or status.work.attempts > 0


async def vanished(context: Context, resource: ManagedSession) -> None:
    """E2B does not know the recorded sandbox any more: say what that means for the session's files."""
    name, sandbox_id = resource.metadata.name, resource.status.sandbox.id
    await context.runs.forget(name)
    context.memory(name).disconnect()
    active, worked = claim_active(resource), resource.status.work.first_heartbeat_at is not None
    if not active:
        context.capacity.release(name)
    verdicts = verdicts_of(Reason.SANDBOX_VANISHED, f"sandbox {sandbox_id} is gone", SandboxState.LOST)
    if _may_hold_files(resource):
        verdicts.append(workspace_lost(f"sandbox {sandbox_id} vanished with the files of earlier turns"))
    finished = {"finishedAt": context.now(), "exitReason": "SandboxVanished"}
    await context.write_status(
        resource,
        verdicts=verdicts,
        sandbox={
            "id": None,
            "state": str(SandboxState.LOST),
            "startedAt": None,
            "savedPeriodStartedAt": None,
        },
        work=finished if active and worked else {},
        recovery={"suspectedAt": context.now()} if active and worked else {},
    )
    context.event(resource, Reason.SANDBOX_VANISHED, f"sandbox {sandbox_id} is gone", warning=True)


async def resolve_create(context: Context, resource: ManagedSession) -> float | None:
    """A create was begun and nothing needs its sandbox any more: record what is there, or nothing."""
    views = await _found(context, resource)
    context.memory(resource.metadata.name).forgotten = False
    if not views:
        await context.write_status(resource, sandbox={"state": None})
        context.capacity.release(resource.metadata.name)
        return None
    chosen = views[0]
    state = SandboxState.PAUSED if chosen.paused else SandboxState.RUNNING
    await context.write_status(
        resource,
        sandbox={
            "id": chosen.sandbox_id,
            "state": str(state),
            "attempt": chosen.attempt,
            "templateID": context.policy(resource).template,
            "startedAt": chosen.started_at,
            "savedPeriodStartedAt": chosen.started_at if chosen.paused else None,
        },
    )
    return None


async def pause(context: Context, resource: ManagedSession) -> float | None:
    """Pause the recorded sandbox, make sure of it, and give its place back."""
    name, sandbox_id = resource.metadata.name, resource.status.sandbox.id
    if sandbox_id is None:
        context.memory(name).disconnect()
        context.capacity.release(name)
        await context.write_status(resource, sandbox={"state": None})
        return None
    view = await context.sandboxes.pause(sandbox_id)
    if view is None:
        await vanished(context, resource)
        return None
    verdicts = saved_verdicts(context, resource, view)
    context.memory(name).disconnect()
    context.capacity.release(name)
    await context.write_status(resource, verdicts=verdicts, sandbox=saved_sandbox(view))
    return None


async def suspend(context: Context, resource: ManagedSession) -> float | None:
    """Stop the worker hard (a graceful stop wedges a session in the middle of a turn) and pause."""
    name, work = resource.metadata.name, resource.status.work
    sandbox = context.memory(name).sandbox
    if claim_active(resource):
        if sandbox is not None and work.claim is not None and work.acknowledged_at is not None:
            await _stop_worker(context, sandbox, work.claim)
        await context.runs.forget(name)
        unstarted = work.acknowledged_at is not None and work.first_heartbeat_at is None
        if work.id is not None and unstarted and resource.status.ended_at is not None:
            # No worker is started for it any more, and the queue offers it to nobody.
            await context.queue.stop_held(work.id)
            ended = {"finishedAt": context.now(), "exitReason": "SessionEnded"}
            resource = await context.write_status(resource, work=ended)
        elif work.first_heartbeat_at is not None:
            resource = await context.write_status(
                resource,
                work={"finishedAt": context.now(), "exitReason": "Suspended"},
                recovery={"suspectedAt": context.now()},
            )
    return await pause(context, resource)


async def _stop_worker(context: Context, sandbox: e2b.AsyncSandbox, claim: str) -> None:
    """A worker in a sandbox that is paused, gone or out of reach does nothing either: pause goes on."""
    try:
        await context.runs.stop(sandbox, claim, context.epoch())
    except Failure as failure:
        logger.warning("worker not stopped", extra={"claim": claim, "cause": str(failure)})


async def extend(context: Context, resource: ManagedSession) -> float | None:
    """Restart the running sandbox's countdown, long before its end."""
    name, sandbox_id = resource.metadata.name, resource.status.sandbox.id
    memory, timeout = context.memory(name), context.policy(resource).timeout_seconds
    if sandbox_id is None or memory.sandbox is None:
        return None
    try:
        await context.sandboxes.extend(sandbox_id, timeout)
    except Failure as failure:
        if failure.kind is not Kind.GONE and failure.status != 404:
            raise
        # Not running any more: looking at it again finds out whether it is paused or gone.
        await context.runs.forget(name)
        memory.disconnect()
        return None
    memory.connect(memory.sandbox, timeout, context.now())
    return None
