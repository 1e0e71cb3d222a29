"""Tells apart the processes of the supervisors in a shared sandbox, which all run agents as the same user.

A supervisor that starts kills what an earlier one has left. Where several run, it must spare what belongs to
the others: everything below a living supervisor (each is a child subreaper, so nothing leaves it), and what
else runs in that supervisor's mount namespace, such as a session's preparation. What no living supervisor
claims was left by one that has died, and is to be killed anyway, whichever session it served.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from managed_session_worker.paths import SESSIONS, Paths
from managed_session_worker.processes import Process, descendants, lineage, process_table
from managed_session_worker.session_namespace import namespace_of


class Neighbours:
    """The other supervisors of this sandbox.

    Args:
        paths: those of the supervisor that asks.
        outer_namespace: for a session's supervisor, the sandbox's own mount namespace, in which no session's
            processes can be.
    """

    def __init__(self, paths: Paths, outer_namespace: str = "") -> None:
        self._folder = Path(paths.of_session("").run, SESSIONS)
        self._paths = paths
        self._outer = outer_namespace

    def supervisors(self, table: dict[int, Process]) -> set[int]:
        """Return the PIDs of the other sessions' supervisors. `table` must be older than this call."""
        sessions = [each.name for each in self._folder.iterdir()] if self._folder.is_dir() else []
        others = [self._paths.of_session(key) for key in sessions if key != self._paths.session]
        return {pid for each in others if (pid := living_supervisor(each, table)) is not None}

    def spares(self, table: dict[int, Process]) -> Callable[[Process], bool]:
        """Return a function that says whether a process of `table` belongs to another supervisor."""
        supervisors = self.supervisors(table)
        below = {process.pid for process in descendants(table, supervisors)} | supervisors
        namespaces = {namespace_of(pid) for pid in supervisors} | {self._outer}
        namespaces -= {"", namespace_of("self")}

        def spared(process: Process) -> bool:
            return process.pid in below or (bool(namespaces) and namespace_of(process.pid) in namespaces)

        return spared

    def mates(self, table: dict[int, Process]) -> Iterator[Process]:
        """Yield what else runs in the session's namespace; nothing for the sandbox's own supervisor."""
        own, spared = namespace_of("self"), lineage(table, os.getpid())
        if self._paths.session and own not in ("", self._outer):
            for process in table.values():
                if process.pid not in spared and namespace_of(process.pid) == own:
                    yield process


def record_supervisor(paths: Paths) -> None:
    """Record this process as the session's supervisor, before it starts any other."""
    own = process_table()[os.getpid()]
    new = Path(f"{paths.supervisor}.new")
    new.write_text(json.dumps({"pid": own.pid, "started": own.started}))
    new.replace(paths.supervisor)


def living_supervisor(paths: Paths, table: dict[int, Process]) -> int | None:
    """Return the PID of the session's supervisor, if it is alive in `table`."""
    try:
        record = json.loads(Path(paths.supervisor).read_text())
        process = table.get(record["pid"])
        lives = process is not None and process.alive and process.started == record["started"]
        return int(record["pid"]) if lives else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
