"""Processes seen through /proc: who descends from the supervisor, and killing all of it.

The supervisor is a child subreaper (prctl(2)), so whatever a worker's tools start stays its descendant, also
after `setsid`, `nohup` or a double fork.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: Passes without a live process before the tree counts as gone: one pass over /proc is not atomic.
CLEAR_PASSES = 3
PASS_INTERVAL_SECONDS = 0.005


@dataclass(frozen=True)
class Process:
    """One line of the process table (proc(5), `stat`)."""

    pid: int
    parent: int
    state: str
    uid: int

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
        """The wait status of `pid` if it has ended. Statuses of all others that have ended are dropped."""
        status = self._statuses.pop(pid, None)
        self._statuses.clear()
        return status


def process_table() -> dict[int, Process]:
    """All processes that can be seen, by pid."""
    table = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                stat = Path(entry.path, "stat").read_text(errors="replace")
                uid = entry.stat().st_uid
            except OSError:
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            table[int(entry.name)] = Process(int(entry.name), int(parent), state, uid)
    return table


def descendants(table: dict[int, Process], roots: set[int]) -> Iterator[Process]:
    """Every process below one of `roots`, the roots themselves left out."""
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
    """What an earlier supervisor's workers left: processes with `marker` in their environment, or of `uid`.

    A process can hide from the first test by clearing its environment, not from the second.
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
    """SIGKILL what `select` picks until nothing of it is alive, at most `seconds` long.

    Returns:
        The pids that were still alive at the deadline; empty when all are gone.
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
    """`kill_all` of everything below this process."""
    own = {os.getpid()}
    return kill_all(lambda table: descendants(table, own), reaper, seconds)


def kill_marked(marker: str, uid: int | None, reaper: Reaper, seconds: float) -> list[int]:
    """`kill_all` of what an earlier supervisor's workers left."""
    return kill_all(lambda table: marked(table, marker, uid), reaper, seconds)
