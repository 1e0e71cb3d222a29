"""Brings what the watches report onto the board."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from managed_session_dashboard.board import Board, Table
from managed_session_dashboard.session_details import compact, details
from managed_session_dashboard.session_events import SessionEvents

Body = Mapping[str, Any]


class Rows:
    """Puts the resources of one kind into one table.

    Args:
        board: where the table is.
        table: which one.
        row: makes a row.
    """

    def __init__(self, board: Board, table: Table, row: Callable[[Body], list[Any]]) -> None:
        self._board = board
        self._table = table
        self._row = row
        self._listed: set[str] | None = None

    def begin(self) -> None:
        """A list begins."""
        self._listed = set()

    def put(self, body: Body) -> None:
        """Add or replace a resource's row."""
        name = body["metadata"]["name"]
        if self._listed is not None:
            self._listed.add(name)
        row = json.dumps(self._row(body), separators=(",", ":"), ensure_ascii=False)
        self._board.put(self._table, name, row)

    def remove(self, body: Body) -> None:
        """Remove a resource's row."""
        self._forget(body["metadata"]["name"])

    def end(self) -> None:
        """The list is complete: remove all other rows."""
        for name in self._board.names(self._table) - (self._listed or set()):
            self._forget(name)
        self._listed = None

    def _forget(self, name: str) -> None:
        self._board.remove(self._table, name)


class SessionRows(Rows):
    """The same for ManagedSessions, of which more is kept for the pages of single sessions."""

    def __init__(
        self, board: Board, row: Callable[[Body], list[Any]], *, events_per_session: int, events: int
    ) -> None:
        super().__init__(board, Table.SESSIONS, row)
        self.events = SessionEvents(per_session=events_per_session, total=events, changed=self._note)
        self._kept: dict[str, str] = {}
        self._versions: Counter[str] = Counter()

    def put(self, body: Body) -> None:
        """Add or replace a session."""
        name, kept = body["metadata"]["name"], compact(body)
        if self._kept.get(name) != kept:
            self._kept[name] = kept
            self._note(name)
        super().put(body)

    def end(self) -> None:
        """The list is complete: forget all other sessions, and their Events."""
        super().end()
        self.events.keep_only(self._kept)

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the JSON of a session's page, or None."""
        kept = self._kept.get(name)
        return None if kept is None else details(kept, self.events)

    def version(self, name: str) -> int:
        """Return a number that changes with what a session's page shows."""
        return self._versions.get(name, 0)

    def _note(self, name: str) -> None:
        self._versions[name] += 1
        self._board.wake()

    def _forget(self, name: str) -> None:
        super()._forget(name)
        self._kept.pop(name, None)
        self._versions.pop(name, None)
        self.events.forget(name)
        self._board.wake()
