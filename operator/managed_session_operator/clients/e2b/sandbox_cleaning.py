"""Removes what another session has left in a sandbox that was created from that session's snapshot."""

from __future__ import annotations

import shlex
from importlib import resources

from managed_session_api.conditions import Reason
from managed_session_worker.paths import Paths

from managed_session_operator.clients.e2b.sandbox_commands import run_to_end
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SandboxHandle

_SECONDS = 25.0
_LONGEST_REASON = 200


class SandboxCleaning:
    """Runs `clean_sandbox` in sandboxes.

    Args:
        sandboxes: fences calls and translates the SDK's errors.
    """

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def clean(self, sandbox: SandboxHandle) -> None:
        """End the processes of the other session, and remove its records. Safe to repeat.

        Raises:
            OperationError: something may be left.
        """
        script = resources.files(__package__).joinpath("clean_sandbox.py").read_text()
        command = f"{Paths().find_python}; cd /; exec $p -I -S -c {shlex.quote(script)}"
        result = await run_to_end(self._sandboxes, sandbox, "cleaning", command, _SECONDS)
        if result.exit_code:
            complaint = result.stderr.strip()[-_LONGEST_REASON:] or "no reason given"
            raise OperationError(
                ErrorKind.TRANSIENT,
                Reason.SANDBOX_UNREACHABLE,
                "What another session has left in the sandbox could not be removed "
                f"(exit status {result.exit_code}: {complaint})",
            )
