"""A viewer gets what has changed since its position, and nothing twice."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from managed_session_dashboard import board as module
from managed_session_dashboard.board import Board, Table

SESSIONS = Table.SESSIONS


def test_unchanged_row_is_no_change() -> None:
    board = Board()
    board.put(SESSIONS, "a", "1")
    board.put(SESSIONS, "a", "1")
    assert board.revision == 1


def test_only_the_newest_state_of_a_row_is_sent() -> None:
    board = Board()
    for number in range(5):
        board.put(SESSIONS, "a", str(number))
    changes = board.since(0)
    assert changes is not None
    assert (changes.rows, changes.removed, changes.revision) == ({SESSIONS: ["4"]}, {}, 5)
    after = board.since(5)
    assert after is not None
    assert not after


def test_many_changes_come_in_parts_the_oldest_first() -> None:
    board = Board()
    for number in range(25):
        board.put(SESSIONS, f"s{number}", str(number))
    position, seen, more = 0, [], True
    while more:
        changes = board.since(position, limit=10)
        assert changes is not None
        seen += changes.rows[SESSIONS]
        position, more = changes.revision, changes.more
    assert seen == [str(number) for number in range(25)]


def test_position_of_the_future_or_before_forgotten_removals_is_not_known() -> None:
    board = Board()
    assert board.since(1) is None
    for number in range(module._MAX_REMOVED + 1):
        board.put(SESSIONS, str(number), "x")
        board.remove(SESSIONS, str(number))
    assert board.since(0) is None
    assert board.since(board.revision - 1) is not None


def test_changes_wake_viewers_only_while_they_wait() -> None:
    board, event = Board(), asyncio.Event()
    with board.waking(event):
        board.put(SESSIONS, "a", "1")
        assert event.is_set()
    event.clear()
    board.put(SESSIONS, "a", "2")
    assert not event.is_set()


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.sampled_from("xyz")))),
    st.integers(0, 30),
    st.integers(1, 3),
)
def test_viewer_who_loads_once_and_applies_changes_sees_what_is_there(
    steps: list[tuple[str, str | None]], loads_after: int, limit: int
) -> None:
    board = Board()
    seen: dict[str, str] = {}
    position = 0
    for number, (name, row) in enumerate([*steps, ("a", "end")]):
        if row is None:
            board.remove(SESSIONS, name)
        else:
            board.put(SESSIONS, name, f"{name}{row}")
        if number == loads_after:
            seen = {each[0]: each for each in board.rows(SESSIONS)}
            position = board.revision
    more = True
    while more:
        changes = board.since(position, limit=limit)
        assert changes is not None
        for each in changes.rows.get(SESSIONS, []):
            seen[each[0]] = each
        for name in changes.removed.get(SESSIONS, []):
            seen.pop(name, None)
        position, more = changes.revision, changes.more
    assert sorted(seen.values()) == sorted(board.rows(SESSIONS))
