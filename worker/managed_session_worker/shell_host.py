"""The process that owns the agent's shells, one for each thread of the session, from one worker to the next.

The supervisor forks it. It runs as the agent's user and serves one worker at a time, over a connection that
the supervisor gives to both. So a shell lasts as long as the sandbox and this process. The agent can kill
this process, but can neither open its descriptors nor read its memory.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from anthropic.lib.tools.agent_toolset import BASH_OUTPUT_LIMIT

from managed_session_worker import processes
from managed_session_worker.agent_process import become_agent_process, marker
from managed_session_worker.command_output import OutputFolder, keepers
from managed_session_worker.paths import Paths
from managed_session_worker.privileges import Account, become_subreaper
from managed_session_worker.shell import CommandTimeoutError, Outcome, Shell
from managed_session_worker.shell_wire import (
    CONNECTION,
    READY,
    RELEASE,
    RELEASED,
    Document,
    SharedRecord,
    frame,
    read_frame,
)
from managed_session_worker.worker_log import RedactingFormatter, log_to_standard_error

PROCESS_NAME = "shell-host"
MOST_SHELLS = 50
"""How many shells are kept. Of more, the idle one whose last command is the longest ago is closed."""
TICK_SECONDS = 0.002
_MOST_KEEPERS = 1000
"""How many processes that read background output are spared when a worker does not end cleanly."""
_LIMITS = 16
"""How many limits a process has (RLIM_NLIMITS)."""

logger = logging.getLogger("managed_session_worker.shell_host")


@dataclass
class _Place:
    """The place of one thread: its shell, and what the thread's next call must know."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    shell: Shell | None = None
    ended: str = ""
    """How the shell before ended."""
    last_ticks: int = -1
    """When the last command ended, in the unit of the process table."""
    call: str | None = None
    """Tool use ID of the last call whose command has ended, and its answer."""
    answer: Document = field(default_factory=dict)


class ShellHost:
    """Runs commands in shells. All methods run on one event loop."""

    def __init__(self, record: SharedRecord) -> None:
        self._record = record
        self._places: dict[str, _Place] = {}
        """By thread; the one that was used last is the last one."""
        self._folders: dict[str, OutputFolder] = {}
        self._running: dict[int, int] = {}
        """When the running commands began, by the PIDs of their shells."""
        self._released: dict[int, int] = {}
        """The same of commands that ran when their worker went."""
        self._releasing = False
        self._number = 0
        self._limits = _limits()

    async def serve(self, connection: socket.socket) -> None:
        """Answer a worker's requests until it hangs up; then end the commands that still run."""
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        self._releasing = False
        self._released.clear()
        writer.write(frame(READY))
        tasks: dict[Any, asyncio.Task[None]] = {}
        try:
            while (request := await read_frame(reader)) is not None:
                number = request.get("id")
                if request.get("do") == "cancel":
                    task = asyncio.create_task(self._cancel(number, tasks.get(number), writer))
                    number = f"cancel {number}"
                else:
                    task = asyncio.create_task(self._answer(request, writer))
                tasks[number] = task
                task.add_done_callback(partial(_drop, tasks, number))
        finally:
            self._releasing = True
            left = list(tasks.values())
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            writer.close()
            for folder in self._folders.values():
                folder.remove_if_empty()

    @property
    def restricted(self) -> bool:
        """Whether the agent has lowered this process's limits. The next host has the supervisor's again."""
        if _limits() == self._limits:
            return False
        logger.error("the limits of this process were changed: ending")
        return True

    def close(self) -> None:
        """End all shells; their background processes live on."""
        for place in self._places.values():
            _end_shell(place)

    def reap(self) -> None:
        """Reap the children that have ended. Orphans of the shells' processes become this one's children."""
        own = {each.pid: each for each in [*self._shell_processes(), *keepers()]}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            process = own.pop(found.si_pid, None)
            if process is None or process.poll() is None:
                os.waitpid(found.si_pid, os.WNOHANG)

    def _shell_processes(self) -> list[Any]:
        return [place.shell.process for place in self._places.values() if place.shell is not None]

    async def _cancel(
        self, number: object, task: "asyncio.Task[None] | None", writer: asyncio.StreamWriter
    ) -> None:
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        await _send(writer, {"id": number, "cancelled": True})

    async def _answer(self, request: Document, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._outcome(request)
        except OSError as error:
            if self.restricted:
                os._exit(1)
            answer = {"error": error.strerror or str(error)}
        except Exception as error:
            logger.exception("a request failed")
            answer = {"error": f"{type(error).__name__}: {error}"}
        await _send(writer, {**answer, "id": request.get("id")})

    async def _outcome(self, request: Document) -> Document:
        """Run the request of one call.

        A worker may have ended after its command and before its result was delivered. The next one then makes
        the same call again, and gets the same answer.
        """
        thread, call = str(request["thread"]), request.get("call")
        place = self._places[thread] = self._places.pop(thread) if thread in self._places else _Place()
        async with place.lock:
            if call is not None and call == place.call:
                return place.answer
            if request["do"] == "restart":
                _end_shell(place)
                place.ended = ""
                self._start_shell(place, request)
                answer: Document = {}
            else:
                answer = await self._run(place, request)
            place.call, place.answer = call, answer
            return answer

    async def _run(self, place: _Place, request: Document) -> Document:
        if place.shell is not None and place.shell.ended:
            _end_shell(place)
        new, before = place.shell is None, place.ended
        shell = self._start_shell(place, request)
        place.ended = ""
        while processes.boot_ticks() <= place.last_ticks:  # noqa: ASYNC110 - nothing tells of a tick
            # What this command starts has to be younger than what the last one has started.
            await asyncio.sleep(TICK_SECONDS)
        pid = shell.process.pid
        self._running[pid] = processes.boot_ticks()
        # Before the command starts: the supervisor must know it even if this process ends.
        self._publish()
        self._number += 1
        timed_out = False
        try:
            outcome = await shell.run(self._number, request["command"], request["seconds"])
        except CommandTimeoutError as error:
            timed_out, outcome = True, error.outcome
            _end_shell(place, "its command timed out")
        except asyncio.CancelledError:
            _end_shell(
                place,
                f"its command was ended {'with its worker' if self._releasing else 'by an interruption'}",
            )
            raise
        finally:
            began = self._running.pop(pid)
            if self._releasing:
                self._released[pid] = began
            place.last_ticks = processes.boot_ticks()
            self._publish()
        return {"new": new, "before": before, "timedOut": timed_out, **_document(outcome)}

    def _start_shell(self, place: _Place, request: Document) -> Shell:
        if place.shell is None:
            self._make_room()
            workdir = request["workdir"]
            folder = self._folders.setdefault(workdir, OutputFolder(workdir))
            place.shell = Shell(workdir, request["environment"], folder, limit=BASH_OUTPUT_LIMIT)
            self._publish()
        return place.shell

    def _make_room(self) -> None:
        """Close idle shells so that another one may be started."""
        places = [place for place in self._places.values() if place.shell is not None]
        idle = [place for place in places if not place.lock.locked()]
        for place in idle[: max(0, len(places) - MOST_SHELLS + 1)]:
            _end_shell(place, f"there were more than {MOST_SHELLS} shells")
            place.call, place.answer = None, {}

    def _publish(self) -> None:
        self._record.write(
            {
                "shells": [each.pid for each in self._shell_processes()],
                "keepers": [each.pid for each in keepers()][-_MOST_KEEPERS:],
                "running": sorted({**self._released, **self._running}.items()),
            }
        )


def _drop(tasks: dict[Any, asyncio.Task[None]], number: object, _ended: "asyncio.Task[None]") -> None:
    tasks.pop(number, None)


async def _send(writer: asyncio.StreamWriter, document: Document) -> None:
    try:
        writer.write(frame(document))
        await writer.drain()
    except OSError:
        logger.info("the worker has gone before it was answered")


def _limits() -> list[tuple[int, int]]:
    """Return the limits of this process, which another one of the agent's user may lower (prlimit(2))."""
    return [resource.getrlimit(number) for number in range(_LIMITS)]


def _end_shell(place: _Place, ended: str = "") -> None:
    if place.shell is not None:
        place.ended = ended or place.shell.ended
        place.shell.close()
        place.shell = None


def _document(outcome: Outcome) -> Document:
    return {
        "output": outcome.output.decode(errors="replace"),
        "truncated": outcome.truncated,
        "status": outcome.status,
        "ended": outcome.ended,
        "background": None if outcome.background is None else str(outcome.background),
        "backgroundKept": outcome.background_kept,
    }


class _Service:
    """Follows the supervisor: serves the newest worker, and ends what an earlier one has asked for."""

    def __init__(self, control: socket.socket, record: SharedRecord) -> None:
        self._control = control
        self._host = ShellHost(record)
        self._serving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the supervisor has ended."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._host.reap)
        messages: asyncio.Queue[tuple[bytes, list[int]]] = asyncio.Queue()
        self._control.setblocking(False)

        def receive() -> None:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, 64, 1)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                loop.remove_reader(self._control)
            messages.put_nowait((data, descriptors))

        loop.add_reader(self._control, receive)
        while True:
            data, descriptors = await messages.get()
            if not data:
                return
            await self._release()
            if data == RELEASE:
                self._control.send(RELEASED)
            elif data == CONNECTION:
                # Where the agent has lowered its limits, this process may not even receive a descriptor.
                if not descriptors or self._host.restricted:
                    return
                self._serving = asyncio.create_task(self._host.serve(socket.socket(fileno=descriptors[0])))

    async def _release(self) -> None:
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def run_shell_host(
    control: int, record: SharedRecord, *, paths: Paths, account: Account, log_to: int, supervisor: int
) -> NoReturn:
    """Serve workers in this freshly forked process until the supervisor ends.

    Args:
        control: Descriptor of the socket to the supervisor.
        record: Memory that is shared with the supervisor.
        paths: The sandbox's paths.
        account: The account to switch to.
        log_to: Descriptor of the log file.
        supervisor: PID of the parent; this process must not outlive it.
    """
    status, mark = 1, marker(paths)
    try:
        become_agent_process(
            PROCESS_NAME,
            account,
            workdir="/",
            log_to=log_to,
            keep=(control,),
            supervisor=supervisor,
            seed=b"",
        )
        become_subreaper()
        name, _, value = mark.partition("=")
        os.environ.clear()
        os.environ.update({name: value, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        gc.enable()
        log_to_standard_error("INFO", RedactingFormatter(()))
        service = _Service(socket.socket(fileno=control), record)
        asyncio.run(service.run())
        status = 0
    except BaseException:
        logger.exception("the shell host failed")
    sys.stderr.flush()
    os._exit(status)
