"""The supervisor's side of the shell host: starts it, connects workers with it, and ends their commands."""

import gc
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress

from managed_session_worker import processes
from managed_session_worker.neighbours import Neighbours
from managed_session_worker.paths import Paths
from managed_session_worker.privileges import Account
from managed_session_worker.processes import Process, Reaper
from managed_session_worker.shell_host import run_shell_host
from managed_session_worker.shell_wire import CONNECTION, RELEASE, RELEASED, SharedRecord
from managed_session_worker.worker_log import open_worker_log

RELEASE_SECONDS = 10.0
"""How long the host may take to end a worker's commands. Then it is killed, and all shells with it."""
KILL_SECONDS = 10.0

logger = logging.getLogger(__name__)


class ShellSupervision:
    """At most one shell host, which lives on when workers end. Not thread-safe."""

    def __init__(self, paths: Paths, account: Account, reaper: Reaper, neighbours: Neighbours) -> None:
        self._paths, self._account, self._reaper = paths, account, reaper
        self._neighbours = neighbours
        self._record = SharedRecord()
        self._control: socket.socket | None = None
        self.pid: int | None = None
        self.worker: int | None = None
        """The PID of the worker that runs, which is none of a host's processes."""

    def start(self) -> None:
        """Start a host if there is none.

        Raises:
            OSError: It could not be forked.
        """
        if self.pid is not None:
            return
        supervisor, log = os.getpid(), open_worker_log(self._paths.worker_log)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._record = SharedRecord()
        # The child closes descriptors by number, so no object of the parent may be finalized there.
        gc.freeze()
        try:
            with processes.signals_held():
                pid = os.fork()
                if pid == 0:
                    run_shell_host(
                        theirs.detach(),
                        self._record,
                        paths=self._paths,
                        account=self._account,
                        log_to=log,
                        supervisor=supervisor,
                    )
                self._reaper.watch(pid)
        except OSError:
            ours.close()
            raise
        finally:
            os.close(log)
            theirs.close()
        ours.settimeout(RELEASE_SECONDS)
        self.pid, self._control = pid, ours

    def connect(self, channel: socket.socket) -> None:
        """Connect a worker with the host, whose connection with an earlier worker ends.

        Args:
            channel: Where the worker waits for its connection.

        Raises:
            OSError: There is no host and none could be started.
        """
        self.check()
        self.start()
        theirs, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, its:
            if self._send(CONNECTION, theirs):
                socket.send_fds(channel, [CONNECTION], [its.fileno()])

    def release(self) -> list[tuple[int, int]]:
        """End what the last worker has asked for.

        A host that does not answer is killed with its shells.

        Returns:
            The commands that ran: the PID of the shell, and when the command began (`processes.boot_ticks`).
        """
        running = self._running()
        if self.pid is not None and not (self._send(RELEASE) and self._released()):
            running = {**running, **self._running()}
            self.kill()
        return sorted({**running, **self._running()}.items())

    def _released(self) -> bool:
        control = self._control
        try:
            return control is not None and control.recv(64) == RELEASED
        except OSError:
            return False

    def _send(self, message: bytes, connection: socket.socket | None = None) -> bool:
        if self._control is None or self.pid is None:
            return False
        try:
            # The agent may have stopped it.
            os.kill(self.pid, signal.SIGCONT)
            socket.send_fds(self._control, [message], [connection.fileno()] if connection else [])
        except OSError:
            return False
        return True

    def check(self) -> None:
        """Notice that the host has ended or was stopped; clean up after one that has ended."""
        if self.pid is None:
            return
        self._reaper.reap()
        if self._reaper.take(self.pid) is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
            return
        logger.warning("the shell host has ended, and the shells with it")
        self._forget()

    def kill(self) -> None:
        """Kill the host with its shells and their commands. Background processes live on."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            processes.kill_all(
                lambda table: (each for each in table.values() if each.pid == self.pid),
                self._reaper,
                KILL_SECONDS,
            )
            self._reaper.take(self.pid)
            self._forget()

    def _forget(self) -> None:
        """Kill the shells of a host that has ended, and what their commands have started."""
        self.pid = None
        if self._control is not None:
            self._control.close()
            self._control = None
        commands = list(self._running().items())
        shells = set(self._record.read().get("shells", []))

        def left(table: dict[int, Process]) -> Iterator[Process]:
            yield from self._of_commands(table, commands)
            yield from (table[pid] for pid in shells if self._is_ours(table, pid))

        processes.kill_all(left, self._reaper, KILL_SECONDS)

    def end_work(self, worker: int, began: int) -> list[int]:
        """Kill a worker, what its tools have started, and the commands that run for it in the shells.

        Idle shells and background processes of earlier commands live on.

        Args:
            worker: The worker's PID.
            began: When it was forked (`processes.boot_ticks`).

        Returns:
            The PIDs of processes that survived SIGKILL.
        """
        own, commands = os.getpid(), list[tuple[int, int]]()

        def work(table: dict[int, Process]) -> Iterator[Process]:
            if worker in table and table[worker].parent == own:
                yield table[worker]
                yield from processes.descendants(table, {worker})
            spared = {worker, self.pid, *self._neighbours.supervisors(table)}
            yield from processes.started_since(table, own, began, spared)
            yield from self._of_commands(table, commands)

        # First the worker, so that it asks for no further command.
        processes.kill_all(work, self._reaper, KILL_SECONDS)
        commands = self.release()
        return processes.kill_all(work, self._reaper, KILL_SECONDS)

    def _of_commands(self, table: dict[int, Process], commands: list[tuple[int, int]]) -> Iterator[Process]:
        """Yield what these commands have started, and their shells if these still run.

        Everything counts that was started since then below the shell, or that has lost its parent since. What
        reads background output, idle shells, and background processes of earlier commands do not count.
        """
        record = self._record.read()
        spared = {*record.get("shells", []), *record.get("keepers", []), self.worker}
        spared |= self._neighbours.supervisors(table)
        for shell, began in commands:
            if self._is_ours(table, shell):
                yield table[shell]
                yield from processes.started_since(table, shell, began)
            # Orphans are the host's children, or this process's if the host has ended.
            yield from processes.started_since(table, self.pid or os.getpid(), began, spared)

    def _is_ours(self, table: dict[int, Process], pid: int) -> bool:
        return pid in table and table[pid].parent in (self.pid, os.getpid())

    def _running(self) -> dict[int, int]:
        return dict(map(tuple, self._record.read().get("running", [])))
