"""The agent's shell: one bash for many commands, each with its own output.

The SDK's bash tool reads its shell through a single pipe. A background process then dies of SIGPIPE when the
shell ends, stalls when nobody reads, writes into the results of later commands, and keeps a command waiting
whose shell has ended. Here each command writes to its own pipe, and the shell reports exit statuses through
another one.

What the agent leaves in its shell (traps, functions, options) can keep the status from being reported. The
command then ends as one that has run out of time.
"""

import asyncio
import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from managed_session_worker import processes
from managed_session_worker.awake_time import within
from managed_session_worker.command_output import CommandOutput, OutputFolder, reap_keepers

_LEAST_STATUS_DESCRIPTOR = 200
"""Least descriptor number for exit statuses in the shell: above those that people use in their commands."""
_STATUS_BYTES = 4096
"""More than a status needs: the agent may write to the status pipe too, without end."""
_SETTLE_SECONDS = 0.1
"""How long processes may hold the pipe of a command that has ended before they count as background."""
_SETTLE_CHECK_SECONDS = 0.01
_KILL_PASSES = 10
"""How often to kill a command's processes: they may start others meanwhile."""


@dataclass(frozen=True)
class Outcome:
    """The result of one command.

    Attributes:
        output: The end of what it wrote to standard output and standard error.
        truncated: Whether it wrote more than that.
        status: Its exit status, or None if the shell was killed or the command ran out of time.
        ended: How the shell ended, for people; empty while it lives.
        background: The file with the output of background processes, if there are any.
        background_kept: Whether that file could be written.
    """

    output: bytes
    truncated: bool
    status: int | None
    ended: str = ""
    background: Path | None = None
    background_kept: bool = True


class CommandTimeoutError(Exception):
    """The command ran out of time. It was killed with the shell and everything that it had started."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("the command ran out of time")
        self.outcome = outcome


class Shell:
    """A bash that keeps its directory, variables and functions from one command to the next.

    Not for concurrent use.
    """

    def __init__(
        self, workdir: str, environment: Mapping[str, str], folder: OutputFolder, *, limit: int
    ) -> None:
        """Start it.

        Args:
            workdir: Where it begins, or "/" if the agent has made that impossible.
            environment: All of its variables.
            folder: Holds pipes and background output.
            limit: How many bytes of a command's output to keep.

        Raises:
            OSError: It could not be started.
        """
        self._folder, self._limit = folder, limit
        statuses, low = os.pipe()
        status_writer = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _LEAST_STATUS_DESCRIPTOR)
        os.close(low)
        try:
            self._process = subprocess.Popen(
                ["/bin/bash", "--noprofile", "--norc"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=workdir if os.access(workdir, os.X_OK) else "/",
                env={**environment, "PS1": "", "PS2": "", "TERM": "dumb"},
                pass_fds=(status_writer,),
                bufsize=0,
                # So that a command's `kill 0` does not reach the host.
                start_new_session=True,
            )
        except OSError:
            os.close(statuses)
            raise
        finally:
            os.close(status_writer)
        assert self._process.stdin is not None
        self._commands = self._process.stdin.fileno()
        self._statuses, self._status_writer = statuses, status_writer
        self._exit = os.pidfd_open(self._process.pid)
        self._unread = b""
        for descriptor in (self._statuses, self._commands):
            os.set_blocking(descriptor, False)

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The process of the shell."""
        return self._process

    @property
    def ended(self) -> str:
        """How the shell ended, for people; empty while it lives."""
        code = self._process.poll()
        if code is None:
            return ""
        return f"exit status {code}" if code >= 0 else f"killed by signal {-code}"

    async def run(self, number: int, command: str, seconds: float) -> Outcome:
        """Run one command until it or the shell ends.

        Cancelling this kills the shell with what the command has started.

        Args:
            number: A number that no other command of this folder has.
            command: What bash evaluates.
            seconds: How long it may take, while the sandbox is not paused.

        Raises:
            CommandTimeoutError: It took longer. The shell has ended too.
            OSError: Its pipe could not be made.
        """
        reap_keepers()
        pipe = self._folder.path() / f"{number}.pipe"
        output = CommandOutput(pipe, self._limit)
        began = processes.boot_ticks()
        # Nobody can guess the mark, so nothing that the agent has left running reports a status in advance.
        mark = os.urandom(8).hex()
        loop = asyncio.get_running_loop()
        loop.add_reader(output.descriptor, self._read, loop, output)
        try:
            status = await within(seconds, self._evaluate(mark, command, pipe))
            loop.remove_reader(output.descriptor)
            output.drain()
            await self._settle(output)
            return self._outcome(output, number, status)
        except TimeoutError:
            self._kill_command(began)
            loop.remove_reader(output.descriptor)
            output.drain()
            raise CommandTimeoutError(self._outcome(output, number, None)) from None
        except asyncio.CancelledError:
            self._kill_command(began)
            loop.remove_reader(output.descriptor)
            self._outcome(output, number, None)
            raise
        finally:
            loop.remove_reader(output.descriptor)
            output.close()

    async def _evaluate(self, mark: str, command: str, pipe: Path) -> int | None:
        # With `eval`, a syntax error fails the command and not the shell. After an unbalanced quote, bash 5.2
        # knows no reserved word at the beginning of the next line, so an empty line follows.
        await self._send(
            f"{{ eval -- {shlex.quote(command)}\n}} </dev/null >{shlex.quote(str(pipe))} 2>&1 "
            f"{self._status_writer}>&-; printf '{mark} %d\\n' $? >&{self._status_writer}\n\n"
        )
        return await self._status(mark)

    @staticmethod
    def _read(loop: asyncio.AbstractEventLoop, output: CommandOutput) -> None:
        if not output.read():
            loop.remove_reader(output.descriptor)

    async def _send(self, text: str) -> None:
        """Write to the shell's standard input. It is no error if the shell has ended."""
        data = text.encode()
        while data:
            try:
                data = data[os.write(self._commands, data) :]
            except BlockingIOError:
                if await _ready(self._exit, self._commands, writing=True) == self._exit:
                    return
            except BrokenPipeError:
                return

    async def _status(self, mark: str) -> int | None:
        """Wait for the exit status with this mark; None if the shell was killed before that."""
        closed = False
        while True:
            ready = await _ready(self._exit, None if closed else self._statuses)
            # Also after the shell's end: it may have reported the status just before.
            closed = not self._read_statuses()
            status = self._reported_status(mark)
            if status is not None:
                return status
            if ready == self._exit:
                code = self._process.wait()
                return code if code >= 0 else None

    def _read_statuses(self) -> bool:
        """Read what the shell has reported; return False at the end of its pipe."""
        try:
            data = os.read(self._statuses, 4096)
        except BlockingIOError:
            return True
        self._unread = (self._unread + data)[-_STATUS_BYTES:]
        return bool(data)

    def _reported_status(self, mark: str) -> int | None:
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            words = line.split()
            if len(words) == 2 and words[0] == mark.encode() and words[1].isdigit():
                return int(words[1])
        return None

    async def _settle(self, output: CommandOutput) -> None:
        """Wait a moment for processes that end just after their command, such as those of `> >(…)`.

        Their output stays in the pipe meanwhile, so that it does not push out the command's own.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS
        while output.has_writers():
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(_SETTLE_CHECK_SECONDS)
        output.drain()

    def _outcome(self, output: CommandOutput, number: int, status: int | None) -> Outcome:
        background, kept = None, True
        if output.has_writers():
            background = self._folder.path() / f"{number}.log"
            kept = output.leave_to_background(background)
        return Outcome(output.tail, output.truncated, status, self.ended, background, kept)

    def _kill_command(self, began: int) -> None:
        """Kill the shell and what its command has started since `began` and not detached.

        Background processes of earlier commands live on.
        """
        shell = self._process.pid
        with contextlib.suppress(ProcessLookupError):
            # Stop it first: only while it lives are its children known by their parent.
            os.kill(shell, signal.SIGSTOP)
        for _ in range(_KILL_PASSES):
            below = processes.descendants(processes.process_table(), {shell})
            started = [each.pid for each in below if each.alive and each.started >= began]
            if not started:
                break
            for pid in started:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the shell; its background processes live on."""
        self._process.kill()
        self._process.wait()
        for descriptor in (self._statuses, self._exit):
            os.close(descriptor)
        if self._process.stdin is not None:
            self._process.stdin.close()


async def _ready(end: int, other: int | None, *, writing: bool = False) -> int:
    """Wait until `end` can be read, or `other` read (or written), and return which."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[int] = loop.create_future()

    def note(descriptor: int) -> None:
        if not found.done():
            found.set_result(descriptor)

    loop.add_reader(end, note, end)
    if other is not None:
        (loop.add_writer if writing else loop.add_reader)(other, note, other)
    try:
        return await found
    finally:
        loop.remove_reader(end)
        if other is not None:
            (loop.remove_writer if writing else loop.remove_reader)(other)
