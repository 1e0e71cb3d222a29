"""Processes of the local system, which tests can freeze."""

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from managed_session_devkit.control_plane.processes import ServerProcess, StartedProcess
from managed_session_devkit.system.fork_server import ForkServer


class ChildProcess(ServerProcess):
    """A `ServerProcess` that can be frozen. `stop` also ends a frozen one.

    With a `fork_server`, the programs that it knows are forked instead of executed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        fork_server: ForkServer | None = None,
    ) -> None:
        super().__init__(name, command, folder, environment)
        self._fork_server = fork_server

    async def _spawn(self, log: int) -> StartedProcess:
        forked = None
        if self._fork_server is not None and self.environment is not None:
            forked = await self._fork_server.start(self.command, self.folder, self.environment, log)
        return forked or await super()._spawn(log)

    async def stop(self, *, kill: bool = False, grace_seconds: float = 10.0) -> None:
        """End the process: SIGTERM and after `grace_seconds` SIGKILL, or (`kill`) SIGKILL at once.

        Thaws a frozen process first, so that it receives the SIGTERM. Does nothing if the process does not
        run.
        """
        if not kill:
            self.thaw()
        await super().stop(kill=kill, grace_seconds=grace_seconds)

    def freeze(self) -> None:
        """Freeze the process (SIGSTOP), as an overloaded machine or a suspended laptop does."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process continue (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
