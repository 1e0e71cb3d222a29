"""Runs one long-lived process of the control plane, with its own group and log."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from managed_session_devkit.control_plane.errors import ProcessFailedError

_LAUNCHER = Path(__file__).parent / "die_with_parent.py"
_LAST_LINES = 20
_LAST_BYTES = 16_384


def dying_with_this_process() -> list[str]:
    """Return a prefix for a command (an absolute path) that makes it die with this process."""
    # With -I and -S the launcher loads only what it needs, which takes milliseconds.
    return [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]


class StartedProcess(Protocol):
    """A process that was started, as `asyncio.subprocess.Process` is one."""

    @property
    def pid(self) -> int:
        """The process ID, which is also that of its group."""

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    async def wait(self) -> int:
        """Wait for the end, and return the exit code."""


class ServerProcess:
    """A server in its own process group. It cannot outlive this process, and its output goes to a file.

    `command` is an absolute path with arguments. `folder` is the working directory and holds `<name>.log`.
    `environment` has all its variables (None: those of this process), and may change before the next start.
    After a stop the server can start again, and its log is continued.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = list(command)
        self.environment = environment
        self.log = folder / f"{name}.log"
        self.folder = folder
        self._process: StartedProcess | None = None

    @property
    def pid(self) -> int | None:
        """The process ID, or None while it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process and return at once, before it is ready.

        Raises:
            RuntimeError: it runs already.
        """
        if self.pid is not None:
            raise RuntimeError(f"{self.name} runs already")
        with self.log.open("ab") as log:
            self._process = await self._spawn(log.fileno())

    async def _spawn(self, log: int) -> StartedProcess:
        return await asyncio.create_subprocess_exec(
            *dying_with_this_process(),
            *self.command,
            cwd=self.folder,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    async def stop(self, *, kill: bool, grace_seconds: float = 10.0) -> None:
        """Stop the process with SIGTERM, or (`kill`) with SIGKILL, and wait for its end.

        Does nothing if it does not run.
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
        """Wait until the process ends by itself, and return the error to report, without raising it."""
        assert self._process is not None
        code = await self._process.wait()
        how = f"exited with code {code}" if code >= 0 else f"was ended by signal {-code}"
        return ProcessFailedError(f"{self.name} {how}. {self.last_lines()}")

    async def until_ready(self, readiness: Coroutine[Any, Any, None], timeout_seconds: float) -> None:
        """Wait until `readiness` has returned, which asks the process.

        Raises:
            ProcessFailedError: the process ended, or was not ready in time; the text shows its last lines.
        """
        asking = asyncio.ensure_future(readiness)
        ended = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait((asking, ended), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                asking.result()
            elif ended.done():
                raise ended.result()
            else:
                raise ProcessFailedError(
                    f"{self.name} was not ready after {timeout_seconds:g} s. {self.last_lines()}"
                )
        finally:
            asking.cancel()
            ended.cancel()
            await asyncio.gather(asking, ended, return_exceptions=True)

    def last_lines(self) -> str:
        """Return the end of the process's log, with the path of the whole log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - _LAST_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            text = ""
        lines = text.splitlines()[-_LAST_LINES:]
        return "Its last lines:\n" + "\n".join(lines) if lines else "It wrote nothing."


async def first_to_fail(*failures: Coroutine[Any, Any, ProcessFailedError]) -> ProcessFailedError:
    """Return (not raise) what the first of these says, such as `ServerProcess.wait`; cancel the others."""
    waits = [asyncio.ensure_future(each) for each in failures]
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for wait in waits:
            wait.cancel()


def _signal_group(process: StartedProcess, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
