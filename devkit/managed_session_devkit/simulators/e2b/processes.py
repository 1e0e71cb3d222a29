"""envd's process table: programs, their output for listeners, and recent exits."""

import asyncio
import base64
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from managed_session_devkit.simulators.e2b.errors import ConnectError
from managed_session_devkit.simulators.e2b.host import FileOperationError, SandboxHostError, SandboxProcess
from managed_session_devkit.simulators.e2b.terminals import TerminalSize, open_terminal, resize_terminal

_CHUNK_BYTES: Final = 32_768
_ENOENT: Final = 2
_ESRCH: Final = 3


@dataclass
class ProcessConfig:
    """What to run, and as which user."""

    command: str
    arguments: list[str]
    environment: dict[str, str]
    directory: str
    user: int
    envs: dict[str, str] = field(default_factory=dict)  # as requested, and as List shows it
    requested_directory: str = ""
    tag: str | None = None
    stdin: bool = False
    terminal: TerminalSize | None = None
    script: list[str] | None = None  # script to run in a fork of the sandbox's init instead

    def as_json(self) -> dict[str, Any]:
        """Return the `config` of envd's List."""
        shown: dict[str, Any] = {"cmd": self.command, "args": self.arguments, "envs": self.envs}
        if self.requested_directory:
            shown["cwd"] = self.requested_directory
        return shown


class EnvdProcess:
    """One process. Its output goes to the current listeners, and is not kept."""

    def __init__(self, config: ProcessConfig, pid: int, stdin: int | None) -> None:
        self.config = config
        self.pid = pid
        self.end: dict[str, Any] | None = None
        self.ended_at = 0.0
        self.deadline: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.remaining: float | None = None
        self._stdin = stdin
        self._listeners: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._open_outputs: dict[int, str] = {}
        self._exit_code: int | None = None
        self.finished = asyncio.Event()

    def listen(self) -> "asyncio.Queue[dict[str, Any] | None]":
        """Return a queue of data events from now on. None ends it."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        if self.end is not None:
            queue.put_nowait(None)
        else:
            self._listeners.add(queue)
        return queue

    def stop_listening(self, queue: "asyncio.Queue[dict[str, Any] | None]") -> None:
        """Remove a queue."""
        self._listeners.discard(queue)

    def attach_output(self, descriptor: int, kind: str) -> None:
        """Read `descriptor` (non-blocking) until its end. `kind` is stdout, stderr or pty."""
        self._open_outputs[descriptor] = kind
        asyncio.get_running_loop().add_reader(descriptor, self._read, descriptor, kind)

    def _read(self, descriptor: int, kind: str) -> None:
        try:
            chunk = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._close_output(descriptor)
            self._finish_when_done()
            return
        event = {"data": {kind: base64.b64encode(chunk).decode()}}
        for queue in self._listeners:
            queue.put_nowait(event)

    def _read_rest(self, descriptor: int) -> None:
        """Read what is available now, even if another process still holds the other end."""
        with suppress(OSError):
            while chunk := os.read(descriptor, _CHUNK_BYTES):
                event = {"data": {self._open_outputs[descriptor]: base64.b64encode(chunk).decode()}}
                for queue in self._listeners:
                    queue.put_nowait(event)
        self._close_output(descriptor)

    def _close_output(self, descriptor: int) -> None:
        if self._open_outputs.pop(descriptor, None) is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def exited(self, code: int) -> None:
        """Handle the end of the process, with its exit code or negative signal number."""
        self._exit_code = code
        self._finish_when_done()

    def _finish_when_done(self) -> None:
        # As in envd, the end is reported when the output is closed too, so a child that holds it open delays
        # the report. If a signal ended the process, the end is reported at once.
        if self._exit_code is None or self.end is not None:
            return
        code = self._exit_code
        if code < 0:
            for descriptor in list(self._open_outputs):
                self._read_rest(descriptor)
        if self._open_outputs:
            return
        self.end = _end(code)
        self.ended_at = time.monotonic()
        self._end_streams()

    def write_stdin(self, data: bytes) -> None:
        """Send input. Raises ConnectError if the standard input is not open."""
        if self._stdin is None:
            raise ConnectError("failed_precondition", "stdin is not enabled or is closed for this process")
        try:
            os.write(self._stdin, data)
        except OSError as error:
            raise ConnectError("internal", f"error writing to stdin: {error.strerror}") from error

    def resize(self, size: TerminalSize) -> None:
        """Change the size of its terminal. Raises ConnectError if it has none."""
        if self._stdin is None or self.config.terminal is None:
            raise ConnectError("failed_precondition", "tty not assigned to process")
        resize_terminal(self._stdin, size)

    def close_stdin(self) -> None:
        """Close the standard input if it is open."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    def abandon(self) -> None:
        """Handle the sandbox's end: close everything, and end all streams without an end event."""
        for descriptor in list(self._open_outputs):
            self._close_output(descriptor)
        self._end_streams()

    def _end_streams(self) -> None:
        self.close_stdin()
        if self.timer is not None:
            self.timer.cancel()
        self.finished.set()
        for queue in self._listeners:
            queue.put_nowait(None)
        self._listeners.clear()


def _streams(config: ProcessConfig) -> tuple[int, int | None, list[tuple[int, int]]]:
    """Open a program's streams: its input, what writes to that, and reader and writer of each output."""
    if config.terminal is not None:
        ours, theirs = open_terminal(config.terminal)
        return theirs, os.dup(ours), [(ours, theirs)]
    outputs = [os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)]
    if not config.stdin:
        return os.open(os.devnull, os.O_RDONLY), None, outputs
    return *os.pipe2(os.O_CLOEXEC), outputs


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _end(code: int) -> dict[str, Any]:
    """Return the end event. Protobuf's JSON omits false and 0."""
    if code < 0:
        status = f"signal: {(signal.strsignal(-code) or str(-code)).lower()}"
        return {"exitCode": -1, "status": status, "error": status}
    status = f"exit status {code}"
    ended = {"exited": True, "status": status}
    return ended | ({"exitCode": code, "error": status} if code else {})


class ProcessTable:
    """All processes that envd has started in one run of a sandbox."""

    def __init__(self, sandbox: SandboxProcess) -> None:
        self._sandbox = sandbox
        self._running: dict[int, EnvdProcess] = {}
        self._retained: dict[int, EnvdProcess] = {}
        self._early_exits: dict[int, int] = {}
        self._frozen = False
        self._tasks: set[asyncio.Task[None]] = set()
        sandbox.on_exit = self._exited
        sandbox.on_gone = self._gone

    def _exited(self, pid: int, code: int) -> None:
        process = self._running.get(pid)
        if process is None:
            self._early_exits[pid] = code
        else:
            process.exited(code)

    def _gone(self) -> None:
        for process in self._running.values():
            process.abandon()
        self._running.clear()

    async def start(self, config: ProcessConfig, timeout_seconds: float = 0) -> EnvdProcess:
        """Start a program, and kill it after `timeout_seconds` (0: never). Raises ConnectError."""
        stdin_read, stdin_write, outputs = _streams(config)
        try:
            reply, _ = await self._sandbox.request(
                "run",
                [stdin_read, outputs[0][1], outputs[-1][1]],
                command=[config.command, *config.arguments],
                environment=config.environment,
                directory=config.directory,
                user=config.user,
                script=config.script,
                terminal=config.terminal is not None,
            )
        except (FileOperationError, SandboxHostError, TimeoutError) as error:
            if isinstance(error, FileOperationError) and error.number == _ENOENT and config.script is None:
                # Envd starts programs through `nice`, so a missing program starts and ends.
                missing = replace(config, command="/bin/sh", arguments=["-c", "exit 127"])
                _close(*(each[0] for each in outputs), *([stdin_write] if stdin_write is not None else []))
                return await self.start(missing, timeout_seconds)
            _close(*(each[0] for each in outputs), *([stdin_write] if stdin_write is not None else []))
            if isinstance(error, FileOperationError):
                raise ConnectError(
                    "invalid_argument",
                    f"error starting process '{config.command}' in '{config.directory}': {error}",
                ) from error
            raise ConnectError("unavailable", str(error)) from error
        finally:
            _close(*{stdin_read, *(each[1] for each in outputs)})
        process = EnvdProcess(config, int(reply["pid"]), stdin_write)
        self._retained.pop(process.pid, None)
        self._running[process.pid] = process
        kinds = ("pty",) if config.terminal is not None else ("stdout", "stderr")
        for (descriptor, _), kind in zip(outputs, kinds, strict=True):
            os.set_blocking(descriptor, False)
            process.attach_output(descriptor, kind)
        self._spawn(self._retain_when_finished(process))
        if timeout_seconds > 0:
            self._arm(process, timeout_seconds)
        if process.pid in self._early_exits:
            process.exited(self._early_exits.pop(process.pid))
        return process

    def _spawn(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _retain_when_finished(self, process: EnvdProcess) -> None:
        await process.finished.wait()
        if process.end is not None and self._running.get(process.pid) is process:
            self._retained[process.pid] = process
            del self._running[process.pid]

    def _arm(self, process: EnvdProcess, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        process.deadline = loop.time() + seconds
        process.timer = loop.call_later(seconds, lambda: self._spawn(self._time_out(process)))

    async def _time_out(self, process: EnvdProcess) -> None:
        with suppress(ConnectError):
            await self.signal(process.pid, signal.SIGKILL)

    def find(self, selector: dict[str, Any], retention_seconds: float = 0) -> EnvdProcess:
        """Return a process by `{"pid"}` or `{"tag"}`. Raises ConnectError.

        A process counts that ended in the last `retention_seconds`.
        """
        pid, tag = selector.get("pid"), selector.get("tag")
        for process in self._running.values():
            if (pid is not None and process.pid == pid) or (tag is not None and process.config.tag == tag):
                return process
        oldest = time.monotonic() - retention_seconds
        for process in self._retained.values():
            if process.ended_at >= oldest and (
                (pid is not None and process.pid == pid) or (tag is not None and process.config.tag == tag)
            ):
                return process
        raise ConnectError(
            "not_found", f"process with {'pid' if tag is None else 'tag'} {pid or tag} not found"
        )

    def list(self) -> list[EnvdProcess]:
        """Return the running processes."""
        return list(self._running.values())

    async def signal(self, pid: int, number: int) -> None:
        """Send a signal to one process, not to its children. Raises ConnectError."""
        try:
            await self._sandbox.request("signal", pid=pid, signal=number)
        except FileOperationError as error:
            code = "not_found" if error.number in (_ENOENT, _ESRCH) else "internal"
            raise ConnectError(code, f"error sending signal: {error}") from error
        except SandboxHostError as error:
            raise ConnectError("unavailable", str(error)) from error

    def freeze(self) -> None:
        """Stop the clocks of commands' timeouts."""
        loop = asyncio.get_running_loop()
        for process in self._running.values():
            if process.timer is not None and process.deadline is not None:
                process.timer.cancel()
                process.remaining = max(0.0, process.deadline - loop.time())

    def thaw(self) -> None:
        """Continue the clocks of commands' timeouts."""
        for process in self._running.values():
            if process.remaining is not None:
                self._arm(process, process.remaining)
                process.remaining = None
