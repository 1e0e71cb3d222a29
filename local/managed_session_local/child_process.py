"""A process of the local system: a server process that can be frozen."""

import os
import signal
from contextlib import suppress

from managed_session_local.control_plane.processes import ServerProcess


class ChildProcess(ServerProcess):
    """A `ServerProcess` that can be frozen, and is stopped even then."""

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
