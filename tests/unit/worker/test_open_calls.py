"""Which tool calls a session waits for, according to its newest events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from managed_session_worker.open_calls import SessionActivity, session_activity, still_open

CALL = "sevt_call"
THREAD = {"session_thread_id": "sthr_1"}


def event(type_: str, **fields: Any) -> object:
    return SimpleNamespace(type=type_, **{"id": f"sevt_{type_}", **fields})


def idle(*calls: str, thread: str | None = None, reason: str | None = None) -> object:
    stop = SimpleNamespace(type=reason or ("requires_action" if calls else "end_turn"), event_ids=calls)
    if thread is None:
        return event("session.status_idle", stop_reason=stop)
    return event("session.thread_status_idle", stop_reason=stop, session_thread_id=thread)


def call(thread: str | None = None) -> object:
    return event("agent.tool_use", id=CALL, session_thread_id=thread)


async def newest_first(*oldest_first: object) -> AsyncIterator[object]:
    for each in reversed(oldest_first):
        yield each


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ([], True),
        ([call()], True),
        ([call(), idle(CALL)], True),
        ([call(), idle()], False),
        ([call(), idle(CALL), idle()], False),
        ([call(), idle(CALL), idle("another")], True),
        ([call(), idle(CALL), event("user.interrupt")], False),
        (
            [call(), idle(CALL), event("user.interrupt"), idle(), event("agent.tool_use"), idle("another")],
            False,
        ),
        ([call(), idle(CALL), event("user.interrupt", **THREAD), idle("another")], True),
        ([call("sthr_1"), idle(CALL, thread="sthr_1"), event("user.interrupt")], False),
        ([call("sthr_1"), idle(CALL, thread="sthr_1"), idle(thread="sthr_2")], True),
        ([call(), event("session.thread_status_idle", stop_reason=None, **THREAD)], True),
        ([call(), event("user.tool_result", tool_use_id=CALL)], False),
        ([call(), event("user.tool_result", tool_use_id="another")], True),
        ([call(), event("user.interrupt")], False),
        ([call(), event("user.interrupt", **THREAD)], True),
        ([call(), event("session.status_terminated")], False),
        ([call(), event("session.deleted")], False),
        ([call(), event("something.new"), event("session.status_new")], True),
        ([call("sthr_1"), event("user.interrupt")], False),
        ([call("sthr_1"), event("user.interrupt", **THREAD)], False),
        ([call("sthr_1"), event("user.interrupt", session_thread_id="sthr_2")], True),
        ([call("sthr_1"), event("session.thread_status_terminated", **THREAD)], False),
        ([call("sthr_1"), idle(thread="sthr_1")], False),
        ([call("sthr_1"), idle(CALL, thread="sthr_1")], True),
        ([call("sthr_1"), idle(thread="sthr_2"), event("session.status_running")], True),
    ],
)
async def test_a_call_is_open_until_something_newer_has_settled_it(
    events: list[object], wanted: bool
) -> None:
    assert await still_open(newest_first(*events), CALL) is wanted


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ([], SessionActivity()),
        ([event("session.status_running")], SessionActivity()),
        ([idle("a", "b"), idle("b")], SessionActivity(waiting=frozenset({"b"}))),
        ([idle("a"), event("session.status_running")], SessionActivity()),
        ([idle("a"), idle()], SessionActivity(idle=True)),
        ([idle(reason="never_seen")], SessionActivity(idle=True)),
        ([idle(reason="budget_reached")], SessionActivity(idle=True)),
        ([event("session.status_running"), idle("a", thread="1")], SessionActivity(waiting=frozenset({"a"}))),
        (
            [idle("a", thread="1"), event("session.thread_status_running", session_thread_id="1")],
            SessionActivity(),
        ),
        ([idle("a", thread="1"), idle("b", thread="2")], SessionActivity(waiting=frozenset({"a", "b"}))),
        ([idle("a", thread="1"), idle("b")], SessionActivity(waiting=frozenset({"a", "b"}))),
        ([idle("a", thread="1"), idle()], SessionActivity(idle=True)),
    ],
)
async def test_a_session_waits_for_the_calls_in_its_and_its_threads_last_events(
    events: list[object], wanted: SessionActivity
) -> None:
    assert await session_activity(newest_first(*events)) == wanted
