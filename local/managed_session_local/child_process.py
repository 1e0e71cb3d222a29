"""A process of the local system: it has an environment of its own and can be frozen."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from managed_session_local.control_plane.processes import ServerProcess, dying_with_this_process


class ChildProcess(ServerProcess):
    """A `ServerProcess` that gets exactly the variables of `environment`.

    They may be changed between a stop and the next start.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        super().__init__(name, command, folder)
        self.environment = dict(environment)

    async def start(self) -> None:
        """Start the process; returns at once, before it serves.

        Raises:
            RuntimeError: it runs already.
        """
        if self.pid is not None:
            raise RuntimeError(f"{self.name} runs already")
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *dying_with_this_process(),
                *self.command,
                cwd=self.log.parent,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def stop(self, *, kill: bool = False, grace_seconds: float = 10.0) -> None:
        """End the process: SIGTERM and after `grace_seconds` SIGKILL, or (`kill`) SIGKILL at once.

        A frozen process is thawed, so that it hears the SIGTERM. Does nothing when it does not run.
        """
        if not kill:
            self.thaw()
        await super().stop(kill=kill, grace_seconds=grace_seconds)

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP), as an overloaded machine or a suspended laptop does."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze` (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
