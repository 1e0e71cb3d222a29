"""Uses a sandbox of an earlier create request, which the search by metadata has found."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.sandbox_connection import reporting_start


async def connect_first(
    context: Context, resource: ManagedSession, found: Iterable[SandboxView], vanished: Collection[str]
) -> tuple[SandboxView, SandboxHandle] | None:
    """Connect the session to the first sandbox that still exists. The resync kills any others.

    Args:
        context: the operator's context.
        resource: the session.
        found: the sandboxes, best first.
        vanished: IDs of those that had vanished. They may do so again.

    Raises:
        OperationError: a sandbox could not be connected.
    """
    timeout = context.policy(resource).timeout_seconds
    for chosen in found:
        try:
            async with reporting_start(context, resource):
                return chosen, await context.sandboxes.connect(chosen.sandbox_id, timeout)
        except OperationError as error:
            if error.kind is ErrorKind.STALE:
                # One pause clears the record of a crashed sandbox. The next attempt finds it paused, or gone.
                await context.sandboxes.pause(chosen.sandbox_id, strict=False)
            elif error.kind is ErrorKind.NOT_FOUND and chosen.sandbox_id in vanished:
                continue
            raise
    return None
