"""One long-running process of the control plane: its group, its log, its end."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from managed_session_local.control_plane.errors import ProcessFailedError

_LAUNCHER = Path(__file__).parent / "die_with_parent.py"
_LAST_LINES = 20
_LAST_BYTES = 16_384


def dying_with_this_process() -> list[str]:
    """What to put before a command (an absolute path) so that it is killed when this process ends."""
    # -I and -S leave out everything that the launcher does not need, so that it takes milliseconds.
    return [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]


class ServerProcess:
    """A server in a process group of its own that cannot outlive this process; its output goes to a file.

    `command` holds an absolute path and arguments; `folder` is the working directory and holds `<name>.log`.
    `environment` is all of its variables (None: those of this process); it may be changed between a stop and
    the next start. May be started again after it was stopped; the log goes on.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = list(command)
        self.environment = environment
        self.log = folder / f"{name}.log"
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process ID while it runs, else None."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

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
                cwd=self._folder,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def stop(self, *, kill: bool, grace_seconds: float = 10.0) -> None:
        """Stop the process and wait for its end: SIGTERM first, or (`kill`) SIGKILL at once.

        Does nothing when it does not run.
        """
        process = self._process
        if process is None:
            return
        try:
            if not kill:
                _signal_group(process, signal.SIGTERM)
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), grace_seconds)
        finally:
            _signal_group(process, signal.SIGKILL)
            await process.wait()
            self._process = None

    def kill(self) -> None:
        """Send SIGKILL without waiting; `stop` then waits for the end."""
        if self._process is not None:
            _signal_group(self._process, signal.SIGKILL)

    async def wait(self) -> ProcessFailedError:
        """Wait until the process ends by itself; returns (does not raise) what is to be said about it."""
        assert self._process is not None
        code = await self._process.wait()
        how = f"exited with code {code}" if code >= 0 else f"was ended by signal {-code}"
        return ProcessFailedError(f"{self.name} {how}. {self.last_lines()}")

    def last_lines(self) -> str:
        """The end of the process's log, introduced by where the whole of it is."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - _LAST_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            text = ""
        lines = text.splitlines()[-_LAST_LINES:]
        return "Its last lines:\n" + "\n".join(lines) if lines else "It wrote nothing."


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
