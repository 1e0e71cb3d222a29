"""Finds the supervisor's descendants through /proc, and kills all of them.

The supervisor is a child subreaper (prctl(2)), so all processes that a worker's tools start stay its
descendants, even after `setsid`, `nohup` or a double fork.
"""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLEAR_PASSES = 3
"""How many passes must find no live process: a single pass over /proc is not atomic."""
PASS_INTERVAL_SECONDS = 0.005


@dataclass(frozen=True)
class Process:
    """One entry of the process table (proc(5), `stat`). `started` is in clock ticks since the boot."""

    pid: int
    parent: int
    state: str
    uid: int
    started: int

    @property
    def alive(self) -> bool:
        """False for a zombie, which runs nothing and only waits to be reaped."""
        return self.state not in "ZX"


class Reaper:
    """Reaps all children, adopted orphans included, and keeps the exit statuses of those that it watches."""

    def __init__(self) -> None:
        self._statuses: dict[int, int | None] = {}

    def watch(self, pid: int) -> None:
        """Keep the exit status of this child, from now until it is taken."""
        self._statuses[pid] = None

    def reap(self) -> None:
        """Reap every child that has ended; never blocks."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._statuses:
                self._statuses[pid] = status

    def take(self, pid: int) -> int | None:
        """Return the wait status of a watched child if it has ended, and forget that child."""
        status = self._statuses.get(pid)
        if status is not None:
            del self._statuses[pid]
        return status


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back the supervisor's signals during a fork: no child may run their handlers before it is ready.

    A child leaves this block only by its end, and unblocks them itself.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def boot_ticks() -> int:
    """Return the current time in the unit of the process table."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def process_table() -> dict[int, Process]:
    """Return all visible processes by PID."""
    table = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                stat = Path(entry.path, "stat").read_text(errors="replace")
                uid = entry.stat().st_uid
            except OSError:
                continue
            state, parent, *rest = stat.rpartition(")")[2].split()
            table[int(entry.name)] = Process(int(entry.name), int(parent), state, uid, int(rest[17]))
    return table


def descendants(
    table: dict[int, Process], roots: set[int], spared: Collection[int] = ()
) -> Iterator[Process]:
    """Yield every process below one of `roots`, without the roots and without all at or below `spared`."""
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    pending = list(roots)
    seen = {*roots, *spared}
    while pending:
        for process in children.get(pending.pop(), []):
            if process.pid not in seen:
                seen.add(process.pid)
                pending.append(process.pid)
                yield process


def started_since(
    table: dict[int, Process], parent: int, ticks: int, spared: Collection[int | None] = ()
) -> Iterator[Process]:
    """Yield the children of `parent` that were started at `ticks` or later, each with everything below it.

    What is below an older or a spared child stays out, even if it is younger: it is that child's work.
    """
    young = {
        each.pid
        for each in table.values()
        if each.parent == parent and each.started >= ticks and each.pid not in spared
    }
    yield from (table[pid] for pid in young)
    yield from descendants(table, young)


def marked(
    table: dict[int, Process],
    marker: str,
    uid: int | None,
    spares: Callable[[dict[int, Process]], Callable[[Process], bool]] = lambda _: lambda _: False,
) -> Iterator[Process]:
    """Yield what an earlier supervisor's workers left: processes of `uid`, or with `marker` as a variable.

    A process can escape the test for the marker by clearing its environment, but not the test for the user.
    `spares` says which processes of the user belong to another supervisor (see `neighbours`).
    """
    needle = marker.encode()
    own, spared = lineage(table, os.getpid()), spares(table)
    for process in table.values():
        if process.pid in own:
            continue
        if uid is not None and process.uid == uid and not spared(process):
            yield process
            continue
        try:
            variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if needle in variables:
            yield process


def lineage(table: dict[int, Process], pid: int) -> set[int]:
    """Return a process with all those above it, and the first one."""
    found = {1}
    while pid in table and pid not in found:
        found.add(pid)
        pid = table[pid].parent
    return found


def kill_all(
    select: Callable[[dict[int, Process]], Iterator[Process]], reaper: Reaper, seconds: float
) -> list[int]:
    """Send SIGKILL to the processes that `select` picks until none is alive, for at most `seconds`.

    Returns:
        The PIDs that were still alive at the deadline.
    """
    deadline = time.monotonic() + seconds
    clear = 0
    while True:
        alive = [process.pid for process in select(process_table()) if process.alive]
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        reaper.reap()
        clear = 0 if alive else clear + 1
        if clear >= CLEAR_PASSES or time.monotonic() > deadline:
            return alive
        if alive:
            time.sleep(PASS_INTERVAL_SECONDS)
