"""Gets the recorded sandbox running: resumes it, clears it after a crash, or reboots it. Pauses it safely."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.conditions import workspace_restarted
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.hooks import before_pause
from managed_session_operator.steps.sandbox_loss import record_loss
from managed_session_operator.steps.shared_sandbox import is_answering_others, pause_shared, welcome
from managed_session_operator.steps.snapshot import saved_conditions, saved_sandbox
from managed_session_operator.steps.waiting import waiting_since

logger = logging.getLogger(__name__)

_UNANSWERED = 3
"""Unanswered requests in a row after which a running sandbox is paused, to find out what is wrong."""
_TRIES = 3
"""Calls needed for the worst case: a crashed sandbox whose newest pause can only be rebooted."""
BUSY = 503
"""E2B's answer to a strict pause if the sandbox's operating system does not respond or the host is busy."""

STRICT_PAUSES = 3
"""Refused strict pauses in a row after which a pause need not save the sandbox's memory."""


@asynccontextmanager
async def reporting_start(context: Context, resource: ManagedSession) -> AsyncIterator[None]:
    """Report to the capacity whether E2B let the call in this block start one more sandbox."""
    name = resource.metadata.name
    try:
        yield
    except OperationError as error:
        if error.kind is ErrorKind.RATE_LIMITED:
            quota = error.reason is Reason.SANDBOX_QUOTA_EXCEEDED
            refused = context.capacity.refused if quota else context.capacity.rate_limited
            refused(
                name,
                waiting_since(context, resource),
                announced=not claim_active(resource),
                retry_after=error.retry_after,
                class_name=context.class_name(resource),
            )
        raise
    context.capacity.started(name)


def log_assigned(resource: ManagedSession, sandbox_id: str | None, how: str) -> None:
    """Log which sandbox the session has from now on, and how it got it."""
    logger.info(
        "assigned session",
        extra={
            "session": resource.spec.session_id,
            "sandbox": sandbox_id,
            "resource": resource.metadata.name,
            "how": how,
        },
    )


async def connect(
    context: Context, resource: ManagedSession, sandbox_id: str
) -> tuple[ManagedSession, SandboxHandle] | None:
    """Resume the recorded sandbox, or connect to it if it runs.

    If the resume will lose something, as after a crash or by a reboot, the status records that first.

    Returns:
        The newest resource and the sandbox. None if the sandbox has vanished, which is then recorded.

    Raises:
        OperationError: the sandbox could not be resumed.
        UnderWayError: E2B has not answered yet.
    """
    owner_name = resource.status.sandbox.shared_by
    if owner_name is None:
        return await _connect(context, resource, sandbox_id)
    async with context.sharing.lock(owner_name):
        owner = await context.sharing.find(owner_name)
        if owner is None or owner.status.id != sandbox_id:
            # Another session has found it missing, and may have the next one already.
            await record_loss(context, resource)
            return None
        reached = await _connect(context, resource, sandbox_id)
        if reached is None:
            return None
        return reached[0], await welcome(context, reached[0], owner, reached[1])


async def _connect(
    context: Context, resource: ManagedSession, sandbox_id: str
) -> tuple[ManagedSession, SandboxHandle] | None:
    timeout = context.policy(resource).timeout_seconds
    reboot = False
    for _ in range(_TRIES):
        try:
            async with reporting_start(context, resource):
                return resource, await context.sandboxes.connect(sandbox_id, timeout, reboot=reboot)
        except OperationError as error:
            if error.kind is ErrorKind.NOT_FOUND:
                await record_loss(context, resource)
                return None
            if error.kind is ErrorKind.STALE:
                cleared = await _clear_record(context, resource, sandbox_id)
                if cleared is None:
                    return None
                resource = cleared
            elif error.reason is Reason.GUEST_UNRESPONSIVE and not reboot:
                resource, reboot = await _report_restart(context, resource, sandbox_id), True
            else:
                raise
    raise OperationError(
        ErrorKind.TRANSIENT, Reason.SANDBOX_RESUME_FAILED, f"Sandbox {sandbox_id} cannot be resumed."
    )


async def _clear_record(context: Context, resource: ManagedSession, sandbox_id: str) -> ManagedSession | None:
    """Pause a crashed sandbox once, so that E2B goes back to what the pause before the crash saved.

    A kill would destroy that snapshot too.
    """
    logger.warning("sandbox has crashed", extra={"resource": resource.metadata.name, "sandbox": sandbox_id})
    view = await context.sandboxes.pause(sandbox_id, strict=False)
    if view is None:
        await record_loss(context, resource)
        return None
    conditions = saved_conditions(context, resource, view, ran=True)
    context.cache(resource.metadata.name).disconnect()
    return await context.records.write_status(
        resource, conditions=conditions, sandbox=saved_sandbox(view, context.now())
    )


async def _report_restart(context: Context, resource: ManagedSession, sandbox_id: str) -> ManagedSession:
    message = (
        f"Sandbox {sandbox_id} did not respond at {context.now():%Y-%m-%dT%H:%M:%SZ} and was rebooted from "
        "its disk. Files are kept, running processes are lost."
    )
    return await context.records.write_status(resource, conditions=[workspace_restarted(message)])


async def pause_sandbox(
    context: Context,
    resource: ManagedSession,
    sandbox_id: str,
    *,
    answers: bool = True,
    for_all: bool = False,
) -> SandboxView | None:
    """Pause the sandbox. Return None if it is gone. `answers`: whether it may be asked to run its hook first.

    A sandbox that other sessions need goes on running, as the returned view says, unless it is to be paused
    `for_all`.

    At first E2B is asked to refuse the pause if the sandbox's operating system does not respond, because that
    may be temporary. After several refusals any pause is accepted; the next resume then boots from the disk.

    Raises:
        OperationError: the sandbox is not paused.
        UnderWayError: E2B has not answered yet.
    """
    cache = context.cache(resource.metadata.name)
    if answers:
        await before_pause(context, resource)
    strict = cache.refused_pauses < STRICT_PAUSES
    try:
        if resource.status.sandbox.shared_by is not None:
            view = await pause_shared(context, resource, sandbox_id, strict=strict, for_all=for_all)
        else:
            view = await context.sandboxes.pause(sandbox_id, strict=strict)
    except OperationError as error:
        cache.refused_pauses += error.status == BUSY
        raise
    cache.refused_pauses = 0
    cache.settle(context.listings.findings)
    return view


async def handle_no_answer(context: Context, resource: ManagedSession, error: OperationError) -> None:
    """Count a request that the running sandbox did not answer, and pause the sandbox after several in a row.

    The pause shows whether the sandbox's operating system responds to E2B. If it does, the sandbox is resumed
    with its memory, otherwise rebooted from its disk.

    Raises:
        OperationError: the sandbox is not paused.
        UnderWayError: E2B has not answered yet.
    """
    cache, sandbox_id = context.cache(resource.metadata.name), resource.status.sandbox.id
    cache.disconnect()
    if error.outcome_known or error.kind is not ErrorKind.TRANSIENT or sandbox_id is None:
        return
    cache.unanswered += 1
    if cache.unanswered >= _UNANSWERED and not is_answering_others(context, resource):
        logger.warning("sandbox does not answer", extra={"sandbox": sandbox_id, "cause": error.message})
        await pause_sandbox(context, resource, sandbox_id, answers=False, for_all=True)
        cache.unanswered = 0
