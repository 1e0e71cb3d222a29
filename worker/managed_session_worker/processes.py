"""Finds the supervisor's descendants through /proc, and kills all of them.

The supervisor is a child subreaper (prctl(2)), so all processes that a worker's tools start stay its
descendants, even after `setsid`, `nohup` or a double fork.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
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
    """Collects the exit statuses of all children, adopted orphans included."""

    def __init__(self) -> None:
        self._statuses: dict[int, int] = {}

    def reap(self) -> None:
        """Collect every child that has ended; never blocks."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._statuses[pid] = status

    def take(self, pid: int) -> int | None:
        """Return the wait status of `pid` if it has ended, and drop all other statuses."""
        status = self._statuses.pop(pid, None)
        self._statuses.clear()
        return status


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


def descendants(table: dict[int, Process], roots: set[int]) -> Iterator[Process]:
    """Yield every process below one of `roots`, without the roots themselves."""
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    pending = list(roots)
    seen = set(roots)
    while pending:
        for process in children.get(pending.pop(), []):
            if process.pid not in seen:
                seen.add(process.pid)
                pending.append(process.pid)
                yield process


def marked(table: dict[int, Process], marker: str, uid: int | None) -> Iterator[Process]:
    """Yield what an earlier supervisor's workers left: processes of `uid`, or with `marker` as a variable.

    A process can escape the test for the marker by clearing its environment, but not the test for the user.
    """
    needle = marker.encode()
    lineage = _lineage(table, os.getpid())
    for process in table.values():
        if process.pid in lineage:
            continue
        if uid is not None and process.uid == uid:
            yield process
            continue
        try:
            variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if needle in variables:
            yield process


def _lineage(table: dict[int, Process], pid: int) -> set[int]:
    lineage = {1}
    while pid in table and pid not in lineage:
        lineage.add(pid)
        pid = table[pid].parent
    return lineage


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


def kill_descendants(reaper: Reaper, seconds: float) -> list[int]:
    """Kill everything below this process; see `kill_all`."""
    own = {os.getpid()}
    return kill_all(lambda table: descendants(table, own), reaper, seconds)


def kill_marked(marker: str, uid: int | None, reaper: Reaper, seconds: float) -> list[int]:
    """Kill what an earlier supervisor's workers left; see `marked` and `kill_all`."""
    return kill_all(lambda table: marked(table, marker, uid), reaper, seconds)
