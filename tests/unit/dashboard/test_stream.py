"""A viewer's stream: slow viewers miss what is outdated, and nothing waits for them in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from managed_session_dashboard.board import Board, Table
from managed_session_dashboard.feeds import SessionRows
from managed_session_dashboard.rows import session_row
from managed_session_dashboard.stream import Stream, position_of


class Place:
    """A board, and what a stream needs beside it."""

    def __init__(self) -> None:
        self.board = Board()
        self.sessions = SessionRows(self.board, session_row, events_per_session=5, events=100)
        self.stop = asyncio.Event()
        self.problem: str | None = None
        self.valid = True

    def events(self, session: str = "", since: str | None = None) -> AsyncIterator[str]:
        async def is_valid() -> bool:
            return self.valid

        position = position_of(self.board, self.board.revision) if since is None else since
        return Stream(
            self.board,
            self.sessions,
            position=position,
            session=session,
            state=lambda: {"problem": self.problem},
            is_valid=is_valid,
            update_seconds=0.001,
            check_seconds=0.01,
            stop=self.stop,
        ).events()


def parsed(text: str) -> tuple[str, Any]:
    fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
    return fields["event"], json.loads(fields["data"])


async def test_viewer_who_does_not_read_gets_only_the_newest_state() -> None:
    place = Place()
    stream = place.events()
    assert parsed(await anext(stream))[0] == "state"
    for number in range(10_000):
        place.board.put(Table.SESSIONS, "a", f'["a",{number}]')
    assert parsed(await anext(stream)) == ("changes", {"sessions": {"rows": [["a", 9999]], "removed": []}})
    place.board.put(Table.SESSIONS, "b", '["b"]')
    assert parsed(await anext(stream)) == ("changes", {"sessions": {"rows": [["b"]], "removed": []}})


async def test_state_is_sent_when_it_changes() -> None:
    place = Place()
    stream = place.events()
    assert parsed(await anext(stream))[1]["problem"] is None
    place.problem = "the API server is away"
    place.board.wake()
    assert parsed(await anext(stream))[1]["problem"] == "the API server is away"


async def test_page_of_a_session_hears_of_its_session_only() -> None:
    place = Place()
    for name in ("a", "b"):
        place.sessions.put({"metadata": {"name": name}, "spec": {"sessionID": name}})
    stream = place.events(session="a")
    assert [parsed(await anext(stream))[0] for _ in range(2)] == ["state", "session"]
    for name, reason in (("b", "Claimed"), ("a", "Claimed")):
        about = {"kind": "ManagedSession", "name": name}
        place.sessions.events.put(
            {"involvedObject": about, "reason": reason, "lastTimestamp": "2026-03-18T12:00:00Z"}
        )
        if name == "b":
            assert place.sessions.version("a") == 1
    assert parsed(await anext(stream)) == ("session", {"name": "a"})


async def test_stream_ends_with_the_sign_in_or_with_the_process() -> None:
    place = Place()
    stream = place.events()
    await anext(stream)
    place.valid = False
    assert [parsed(text)[0] async for text in stream] == ["signed-out"]
    place.valid = True
    stream = place.events()
    await anext(stream)
    place.stop.set()
    assert [text async for text in stream] == []


async def test_unknown_position_is_answered_with_reload_at_once() -> None:
    assert [parsed(text)[0] async for text in Place().events(since="another.1")] == ["reload"]
