"""Pauses, extends and leaves a sandbox that the session shares with others."""

from __future__ import annotations

import logging
from datetime import timedelta

from managed_session_api.conditions import Reason
from managed_session_api.managed_sandbox import ManagedSandbox, SharedState
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.policy import idempotency_key
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.domain.session_handle import SessionHandle
from managed_session_operator.domain.shared_sandbox import (
    MOST_DEPARTED,
    countdown,
    may_belong,
    shared_metadata,
)
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)

_REMOVAL_SECONDS = 20.0
"""How long a session's turn may be held up by the files of deleted sessions."""
_LEAVE_PATIENCE = timedelta(seconds=60)
"""How long a deletion waits until its session has left a sandbox that runs."""


def needs_sandbox(context: Context, name: str) -> bool:
    """Return whether the session called `name` needs its sandbox to run: it uses it, or is about to."""
    if context.sharing.is_detached(name):
        return False
    cache, resource = context.caches.get(name), context.records.cache.get(name)
    connected = cache is not None and cache.sandbox is not None
    running = resource is not None and resource.status.sandbox.state is SandboxState.RUNNING
    return connected or running or context.capacity.holds(name)


def at_work(context: Context, owner_name: str, *, beside: str = "") -> list[str]:
    """Return the names of the sessions that need the shared sandbox to run, without the one `beside`."""
    sessions = context.records.cache.sharing(owner_name) - {beside}
    return sorted(name for name in sessions if needs_sandbox(context, name))


async def pause_shared(
    context: Context, resource: ManagedSession, sandbox_id: str, *, strict: bool, for_all: bool
) -> SandboxView | None:
    """Pause the sandbox if no other session needs it. Otherwise only this session detaches from it.

    Args:
        context: the operator's context.
        resource: the session.
        sandbox_id: its sandbox.
        strict: see `Sandboxes.pause`.
        for_all: whether to pause it under the other sessions too. Their workers go on after the resume.

    Returns:
        The sandbox, which runs if the session has only detached; None if it is gone.
    """
    name, owner_name = resource.metadata.name, resource.status.sandbox.shared_by or ""
    async with context.sharing.lock(owner_name):
        others = at_work(context, owner_name, beside=name)
        if others and not for_all:
            view = await context.sandboxes.info(sandbox_id)
            # Only now: until the call is answered, the session may get other work and go on.
            context.sharing.detach(name)
            logger.info(
                "session detached", extra={"resource": name, "sandbox": sandbox_id, "others": len(others)}
            )
            return view
        for other in others:
            # Its stream ends with the pause. Its worker does not know yet that its connections are dead.
            context.cache(other).disconnect()
            context.cache(other).resume_unreported = True
        try:
            view = await context.sandboxes.pause(sandbox_id, strict=strict)
        except OperationError:
            for other in others:
                # It goes on, so their streams do not end. They connect again, and restart its countdown.
                await context.runs.forget(other)
            raise
        owner = await context.sharing.find(owner_name)
        if view is not None and owner is not None and owner.status.id == sandbox_id:
            await context.sharing.write(owner, state=SharedState.PAUSED)
        if not for_all:
            # Last: after an error this session may go on with the next offer, as connected as before.
            context.sharing.detach(name)
        return view


async def settled_view(context: Context, resource: ManagedSession, sandbox_id: str) -> SandboxView | None:
    """Return the sandbox after a pause that is in progress; None if it does not exist any more."""
    async with context.sharing.turn(resource):
        view = await context.sandboxes.info(sandbox_id)
        if view is not None and view.paused and view.end_at > context.now():
            return await context.sandboxes.pause(sandbox_id)
        return view


async def runs_for_others(context: Context, resource: ManagedSession) -> bool:
    """Return whether the sandbox, from which this session has detached, goes on for other sessions."""
    sandbox = resource.status.sandbox
    if sandbox.shared_by is None or sandbox.id is None:
        return False
    view = await context.sandboxes.info(sandbox.id)
    return view is not None and not view.paused


def is_answering_others(context: Context, resource: ManagedSession) -> bool:
    """Return whether the shared sandbox works for another session, so that it need not be looked into."""
    owner_name = resource.status.sandbox.shared_by
    if owner_name is None:
        return False
    others = context.records.cache.sharing(owner_name) - {resource.metadata.name}
    caches = [context.caches[name] for name in others if name in context.caches]
    return any(each.sandbox is not None and each.unanswered == 0 for each in caches)


async def extension(
    context: Context, resource: ManagedSession, sandbox_id: str, timeout_seconds: int
) -> int | None:
    """Return the seconds at which to restart the countdown; None if the sandbox does not run.

    A session never shortens the countdown of the others.
    """
    if resource.status.sandbox.shared_by is None:
        return timeout_seconds
    view = await context.sandboxes.info(sandbox_id)
    if view is None or view.paused:
        return None
    return countdown(view, timeout_seconds, context.now())


async def welcome(
    context: Context, resource: ManagedSession, owner: ManagedSandbox, sandbox: SandboxHandle
) -> SessionHandle:
    """Take note that the sandbox runs, for this session. Remove what deleted sessions have left in it."""
    context.sharing.attach(resource.metadata.name)
    departed = await _remove_departed(context, owner, sandbox)
    sessions = len(context.records.cache.sharing(owner.metadata.name))
    await context.sharing.write(owner, state=SharedState.RUNNING, sessions=sessions, departed=departed)
    return SessionHandle(sandbox, resource.session_key)


async def _remove_departed(context: Context, owner: ManagedSandbox, sandbox: SandboxHandle) -> list[str]:
    """Remove what deleted sessions have left, for a limited time. Return whose files are still there.

    A session that was deleted and restored from a backup has its former key, and may be working.
    """
    if not owner.status.departed:
        return []
    until = context.clock.monotonic() + _REMOVAL_SECONDS
    # Also those that do not name the owner: a session may be restored without its status.
    present = {each.session_key for each in context.records.cache.summaries() if not each.deleting}
    left = [key for key in owner.status.departed if key not in present]
    while left and context.clock.monotonic() < until:
        key = left.pop(0)
        try:
            await context.runs.leave(SessionHandle(sandbox, key))
        except OperationError as error:
            logger.warning(
                "files of a deleted session not removed",
                extra={"sandbox": sandbox.sandbox_id, "cause": error.message},
            )
            # The last, so that it does not keep those of the others in the sandbox.
            return [*left, key]
    return left


async def running_handle(context: Context, resource: ManagedSession) -> SandboxHandle | None:
    """Return a handle of the session's sandbox without resuming it; None if it does not run.

    The caller has the turn of a sandbox that is shared, so that nobody pauses it in between.
    """
    cached = context.cache(resource.metadata.name).sandbox
    return cached if cached is not None else await _reach_running(context, resource)


async def _reach_running(context: Context, resource: ManagedSession) -> SandboxHandle | None:
    if (sandbox_id := resource.status.sandbox.id) is None:
        return None
    view = await context.sandboxes.info(sandbox_id)
    if view is None or view.paused:
        return None
    connected = await context.sandboxes.connect(sandbox_id, context.policy(resource).timeout_seconds)
    if resource.status.sandbox.shared_by is None:
        return connected
    return SessionHandle(connected, resource.session_key)


def is_wanted(context: Context, owner: ManagedSandbox, *, beside: str = "") -> bool:
    """Return whether any session has files in the sandbox, or may have, without the one `beside`."""
    cache = context.records.cache
    if cache.sharing(owner.metadata.name) - {beside}:
        return True
    without = [
        each.name
        for each in cache.summaries()
        if each.sandbox_id is None and each.shared_by is None and each.name != beside
    ]
    return any(may_belong(each, owner) for name in without if (each := cache.get(name)) is not None)


def has_company(context: Context, resource: ManagedSession) -> bool:
    """Return whether other sessions share the session's sandbox."""
    owner_name = resource.status.sandbox.shared_by
    return owner_name is not None and bool(
        context.records.cache.sharing(owner_name) - {resource.metadata.name}
    )


async def depart(context: Context, resource: ManagedSession) -> bool:
    """Take a deleted session out of its shared sandbox. With the last session the sandbox is killed.

    Returns:
        Whether the sandbox was killed.
    """
    name, owner_name = resource.metadata.name, resource.status.sandbox.shared_by or ""
    async with context.sharing.lock(owner_name):
        owner = await context.sharing.find(owner_name)
        if owner is None:
            return False
        others = context.records.cache.sharing(owner_name) - {name}
        if not is_wanted(context, owner, beside=name):
            await end(context, owner)
            return True
        sandbox_id = resource.status.sandbox.id
        if sandbox_id is None or owner.status.id != sandbox_id:
            await context.sharing.write(owner, sessions=len(others))
            return False
        left = await _leave(context, resource)
        departed = owner.status.departed
        if not left and resource.session_key not in departed:
            departed = [*departed, resource.session_key][-MOST_DEPARTED:]
        owner = await context.sharing.write(owner, sessions=len(others), departed=departed)
        if not at_work(context, owner_name, beside=name):
            await _pause_or_leave_it(context, owner)
    return False


async def _leave(context: Context, resource: ManagedSession) -> bool:
    """Remove the session from the running sandbox. Return False if its files are left there for now.

    Raises:
        OperationError: the sandbox runs and has not done it. For a while it is asked again, because the
            session's processes would go on beside those of the others.
    """
    deleted = resource.metadata.deletion_timestamp
    try:
        # Connected anew: the sandbox may have been paused since this session used it.
        handle = await _reach_running(context, resource)
        if handle is None:
            return False
        await context.runs.leave(handle)
    except OperationError as error:
        patience = _LEAVE_PATIENCE * context.settings.retry_scale
        if deleted is not None and context.now() < deleted + patience:
            raise
        logger.warning(
            "session not removed from its shared sandbox",
            extra={"resource": resource.metadata.name, "cause": error.message},
        )
        return False
    return True


async def _pause_or_leave_it(context: Context, owner: ManagedSandbox) -> None:
    """Pause a shared sandbox that no session needs. If E2B refuses, the resync does it later."""
    try:
        await pause_idle(context, owner)
    except OperationError as error:
        logger.warning(
            "shared sandbox not paused", extra={"owner": owner.metadata.name, "cause": error.message}
        )


async def pause_idle(context: Context, owner: ManagedSandbox, *, strict: bool = True) -> None:
    """Pause a shared sandbox that no session needs. The caller holds its lock.

    Args:
        context: the operator's context.
        owner: the ManagedSandbox.
        strict: see `Sandboxes.pause`.
    """
    if owner.status.id is None:
        return
    view = await context.sandboxes.pause(owner.status.id, strict=strict)
    if view is not None:
        await context.sharing.write(owner, state=SharedState.PAUSED)


async def end(context: Context, owner: ManagedSandbox) -> None:
    """Kill all sandboxes of a ManagedSandbox and remove the resource. The caller holds its lock."""
    await context.sandboxes.give_up_create(idempotency_key(owner.metadata.uid, owner.status.attempt))
    if owner.status.id is not None:
        await context.sandboxes.kill(owner.status.id)
    for view in await context.sandboxes.list(shared_metadata(owner, context.installation_id)):
        await context.sandboxes.kill(view.sandbox_id)
    await context.sharing.store.remove(owner)
    logger.info("shared sandbox removed", extra={"owner": owner.metadata.name, "sandbox": owner.status.id})


def no_agent(session_id: str) -> OperationError:
    """Return the error for a session whose agent is not known."""
    return OperationError(
        ErrorKind.TRANSIENT,
        Reason.ENVIRONMENT_UNREACHABLE,
        f"Anthropic does not say which agent session {session_id} runs, so its shared sandbox is not known.",
    )
