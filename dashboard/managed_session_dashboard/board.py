"""Holds what all viewers see, and finds what has changed since a viewer's last update.

Each row has the revision of its last change. A viewer is only a revision: whoever is slow or comes back gets
the newest state of what has changed since, so nothing waits in memory for a viewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

_MAX_REMOVED = 10_000


class Table(StrEnum):
    """The tables of the page."""

    SESSIONS = "sessions"
    CLASSES = "classes"
    SHARED = "shared"


@dataclass
class Changes:
    """What a viewer lacks: rows as JSON text and names of removed rows, by table.

    Attributes:
        revision: the viewer's revision once it has these changes.
        more: whether there are further changes.
    """

    revision: int
    more: bool = False
    rows: dict[Table, list[str]] = field(default_factory=dict)
    removed: dict[Table, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.rows or self.removed)


class Board:
    """The rows of all tables."""

    def __init__(self) -> None:
        self.instance = secrets.token_hex(4)
        """Marks the revisions of this process."""
        self.revision = 0
        self._rows: dict[Table, dict[str, str]] = {table: {} for table in Table}
        self._changed: OrderedDict[tuple[Table, str], int] = OrderedDict()
        """Revision of the last change of each row, oldest first; removed ones included."""
        self._removed: OrderedDict[tuple[Table, str], None] = OrderedDict()
        self._forgotten = 0
        """The revision up to which removals have been forgotten."""
        self._wakers: set[asyncio.Event] = set()

    def rows(self, table: Table) -> Iterable[str]:
        """Return all rows of a table, as JSON."""
        return self._rows[table].values()

    def names(self, table: Table) -> set[str]:
        """Return the names of all rows of a table."""
        return set(self._rows[table])

    def put(self, table: Table, name: str, row: str) -> None:
        """Add or replace a row. Nothing happens if it is the same."""
        if self._rows[table].get(name) == row:
            return
        self._rows[table][name] = row
        self._removed.pop((table, name), None)
        self._note(table, name)

    def remove(self, table: Table, name: str) -> None:
        """Remove a row."""
        if self._rows[table].pop(name, None) is None:
            return
        self._note(table, name)
        self._removed[(table, name)] = None
        while len(self._removed) > _MAX_REMOVED:
            key, _ = self._removed.popitem(last=False)
            self._forgotten = max(self._forgotten, self._changed.pop(key))

    def since(self, revision: int, *, limit: int = 1000) -> Changes | None:
        """Return what has changed after `revision`, at most `limit` rows; None if that is not known."""
        if revision < self._forgotten or revision > self.revision:
            return None
        newest_first = []
        for key, changed in reversed(self._changed.items()):
            if changed <= revision:
                break
            newest_first.append((key, changed))
        chosen = newest_first[-limit:]
        changes = Changes(chosen[0][1] if chosen else revision, more=len(chosen) < len(newest_first))
        for (table, name), _ in reversed(chosen):
            row = self._rows[table].get(name)
            if row is None:
                changes.removed.setdefault(table, []).append(name)
            else:
                changes.rows.setdefault(table, []).append(row)
        return changes

    def wake(self) -> None:
        """Let all viewers look for something new."""
        for waker in self._wakers:
            waker.set()

    @contextlib.contextmanager
    def waking(self, event: asyncio.Event) -> Iterator[None]:
        """Set `event` at each change, for the duration of the block."""
        self._wakers.add(event)
        try:
            yield
        finally:
            self._wakers.discard(event)

    def _note(self, table: Table, name: str) -> None:
        self.revision += 1
        self._changed[(table, name)] = self.revision
        self._changed.move_to_end((table, name))
        self.wake()
