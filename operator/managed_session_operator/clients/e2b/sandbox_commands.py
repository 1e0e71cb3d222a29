"""Runs short programs of the operator's as root in a connected sandbox."""

from __future__ import annotations

from typing import Any

import e2b
from managed_session_api.conditions import Reason
from managed_session_worker.paths import Paths

from managed_session_operator.clients.e2b.handle import paths_of, sdk_sandbox
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.session_handle import session_key_of

USER = "root"
_UNKNOWN_COMMAND = ("usage: supervisorctl.py", "usage: attach.py", "can't open file")


async def run_to_end(
    sandboxes: Sandboxes, sandbox: SandboxHandle, operation: str, command: str, seconds: float
) -> Any:
    """Run a command and return the SDK's result, whatever its exit status.

    Raises:
        OperationError: the sandbox does not answer, or not within `seconds`.
    """
    async with sandboxes.data_plane(operation, seconds):
        try:
            return await sdk_sandbox(sandbox).commands.run(command, user=USER, timeout=seconds)
        except e2b.CommandExitException as error:
            return error


async def free_reserve(sandboxes: Sandboxes, sandbox: SandboxHandle) -> None:
    """Free the supervisor's reserve on a disk that the agent has filled: only its next turn can make room.

    A session that is new in a shared sandbox has none yet, so the sandbox's own is freed too.
    """
    async with sandboxes.data_plane("room on the disk"):
        files = f"{paths_of(sandbox).reserve} {Paths().reserve}"
        await sdk_sandbox(sandbox).commands.run(f"rm -f {files}", user=USER)


def not_shared(sandbox: SandboxHandle, complaint: str) -> OperationError | None:
    """Return the error of a sandbox whose `supervisorctl` does not know sessions, if that is why it failed.

    Args:
        sandbox: the sandbox.
        complaint: what the command wrote to standard error.
    """
    if session_key_of(sandbox) is None or not any(sign in complaint for sign in _UNKNOWN_COMMAND):
        return None
    message = (
        f"Sandbox {sandbox.sandbox_id} cannot be shared by several sessions: its template is of an earlier "
        "version. Build the template again, and delete this sandbox."
    )
    return OperationError(ErrorKind.USER_ACTION, Reason.WORKER_START_FAILED, message)
