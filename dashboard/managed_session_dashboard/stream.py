"""Sends what is on the board to a viewer: all of it once, then changes as server-sent events."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from managed_session_dashboard.board import Board, Changes, Table
from managed_session_dashboard.feeds import SessionRows
from managed_session_dashboard.rows import COLUMNS

PING_SECONDS = 15.0
"""How often a stream without changes sends something, so that both ends notice a lost connection."""

_KEEP_SECONDS = 1.0
_LEVEL = 5


class Snapshots:
    """The whole board as compressed JSON, made at most once a second for all viewers.

    Args:
        board: what to send.
        fixed: what does not change while the process runs.
    """

    def __init__(self, board: Board, fixed: dict[str, Any]) -> None:
        self._board = board
        self._fixed = json.dumps(
            {**fixed, "columns": {table.value: COLUMNS[table] for table in Table}}, ensure_ascii=False
        )
        self._made = 0.0
        self._revision = -1
        self._content = b""
        self._making = asyncio.Lock()

    async def content(self) -> bytes:
        """Return the board as JSON, compressed with gzip."""
        async with self._making:
            fresh = time.monotonic() - self._made < _KEEP_SECONDS or self._revision == self._board.revision
            if self._revision < 0 or not fresh:
                self._revision = self._board.revision
                text = self._text()
                self._content = await asyncio.to_thread(gzip.compress, text.encode(), _LEVEL)
                self._made = time.monotonic()
            return self._content

    def _text(self) -> str:
        tables = ",".join(f'"{table}":[{",".join(self._board.rows(table))}]' for table in Table)
        position = position_of(self._board, self._board.revision)
        return (
            f'{{"position":"{position}","now":{time.time():.3f},"fixed":{self._fixed},"tables":{{{tables}}}}}'
        )


def position_of(board: Board, revision: int) -> str:
    """Return a viewer's position: an ID of a server-sent event."""
    return f"{board.instance}.{revision}"


def revision_of(board: Board, position: str) -> int | None:
    """Return the revision of a position, or None if it is not one of this process."""
    instance, _, revision = position.partition(".")
    return int(revision) if instance == board.instance and revision.isdecimal() else None


class Stream:
    """One viewer's stream of changes.

    Args:
        board: where the changes are.
        sessions: what the pages of single sessions show.
        position: the viewer's position.
        session: the session whose page the viewer has open; its name, or empty.
        state: returns whether the board is up to date, as JSON.
        is_valid: returns whether the viewer may still see it.
        update_seconds: minimum time between two updates.
        check_seconds: how often to ask `is_valid`, at least.
        stop: set when the process stops.
    """

    def __init__(
        self,
        board: Board,
        sessions: SessionRows,
        *,
        position: str,
        session: str,
        state: Callable[[], dict[str, Any]],
        is_valid: Callable[[], Awaitable[bool]],
        update_seconds: float,
        check_seconds: float,
        stop: asyncio.Event,
    ) -> None:
        self._board = board
        self._sessions = sessions
        self._revision = revision_of(board, position)
        self._session = session
        self._version = -1
        self._state = state
        self._sent_state: dict[str, Any] | None = None
        self._is_valid = is_valid
        self._update_seconds = update_seconds
        self._look_seconds = min(PING_SECONDS, check_seconds)
        self._stop = stop

    async def events(self) -> AsyncIterator[str]:
        """Yield server-sent events until the viewer has to load everything again, or may not see it."""
        changed = asyncio.Event()
        with self._board.waking(changed):
            said = 0.0
            while not self._stop.is_set():
                changed.clear()
                if not await self._is_valid():
                    yield _event("signed-out", {})
                    return
                sent, more = False, False
                async for text, follows in self._news():
                    sent, more = True, follows
                    yield text
                    if text.startswith("event: reload"):
                        return
                if sent:
                    said = time.monotonic()
                elif time.monotonic() - said >= PING_SECONDS:
                    said = time.monotonic()
                    yield ":\n\n"
                if more:
                    continue
                await self._pause(changed)

    async def _news(self) -> AsyncIterator[tuple[str, bool]]:
        """Yield what is new, each with whether more rows follow."""
        changes = None if self._revision is None else self._board.since(self._revision)
        if changes is None:
            yield _event("reload", {}), False
            return
        if changes:
            self._revision = changes.revision
            yield self._changes(changes), changes.more
        state = self._state()
        if state != self._sent_state:
            self._sent_state = state
            yield _event("state", {**state, "now": time.time()}), changes.more
        version = self._sessions.version(self._session) if self._session else self._version
        if version != self._version:
            self._version = version
            yield _event("session", {"name": self._session}), changes.more

    async def _pause(self, changed: asyncio.Event) -> None:
        """Wait for a change or until something has to be sent, and let further changes gather."""
        waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(waits, timeout=self._look_seconds, return_when=asyncio.FIRST_COMPLETED)
            if not self._stop.is_set() and changed.is_set():
                await asyncio.wait(waits[1:], timeout=self._update_seconds)
        finally:
            for each in waits:
                each.cancel()

    def _changes(self, changes: Changes) -> str:
        tables = [
            f'"{table}":{{"rows":[{",".join(changes.rows.get(table, ()))}],'
            f'"removed":{json.dumps(changes.removed.get(table, []))}}}'
            for table in Table
            if table in changes.rows or table in changes.removed
        ]
        position = position_of(self._board, changes.revision)
        return f"id: {position}\nevent: changes\ndata: {{{','.join(tables)}}}\n\n"


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
