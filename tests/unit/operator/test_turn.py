"""Who has to act next in a session, according to its newest events."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from managed_session_operator.domain.turn import Awaited, is_oldest_first, read_turn

from .examples import ago


def event(type_: str, id_: str = "", **more: Any) -> SimpleNamespace:
    return SimpleNamespace(type=type_, id=id_ or f"sevt_{type_}", **more)


def idle(*open_calls: str, reason: str = "requires_action") -> SimpleNamespace:
    return event("session.status_idle", stop_reason=SimpleNamespace(type=reason, event_ids=list(open_calls)))


def call(id_: str, permission: str | None = "allow", type_: str = "agent.tool_use") -> SimpleNamespace:
    return event(type_, id_, evaluated_permission=permission)


def thread(status: str, *open_calls: str) -> SimpleNamespace:
    reason = SimpleNamespace(type="requires_action", event_ids=list(open_calls)) if open_calls else None
    return event(f"session.thread_status_{status}", session_thread_id="sthr_1", stop_reason=reason)


MESSAGE, RUNNING = event("user.message"), event("session.status_running")
RESULT = event("user.tool_result", tool_use_id="sevt_1")
ENDED = idle(reason="end_turn")
OF_THREAD = event("user.interrupt", session_thread_id="sthr_1")
ALLOWED = event("user.tool_confirmation", tool_use_id="sevt_1", result="allow")


@pytest.mark.parametrize(
    ("oldest_first", "awaited"),
    [
        ([], Awaited.NOBODY),
        ([event("session.updated")], Awaited.NOBODY),
        ([MESSAGE], Awaited.AGENT),
        ([MESSAGE, RUNNING], Awaited.AGENT),
        ([MESSAGE, RUNNING, event("agent.message"), ENDED], Awaited.NOBODY),
        ([RUNNING, ENDED, MESSAGE], Awaited.AGENT),
        ([RUNNING, event("session.status_rescheduled")], Awaited.AGENT),
        ([RUNNING, call("sevt_1"), idle("sevt_1")], Awaited.RESULTS),
        ([RUNNING, call("sevt_1"), idle("sevt_1"), RESULT], Awaited.AGENT),
        ([RUNNING, call("sevt_1"), call("sevt_2"), idle("sevt_1", "sevt_2"), RESULT], Awaited.AGENT),
        ([RUNNING, call("sevt_1", "ask"), idle("sevt_1")], Awaited.USER),
        ([RUNNING, call("sevt_1", "ask"), idle("sevt_1"), ALLOWED], Awaited.RESULTS),
        ([RUNNING, call("sevt_1", type_="agent.custom_tool_use"), idle("sevt_1")], Awaited.USER),
        ([RUNNING, call("sevt_1", "ask"), call("sevt_2"), idle("sevt_1", "sevt_2")], Awaited.RESULTS),
        ([idle("sevt_unseen")], Awaited.USER),
        ([RUNNING, call("sevt_1"), idle("sevt_1"), event("user.interrupt")], Awaited.NOBODY),
        ([RUNNING, event("user.interrupt"), ENDED, MESSAGE], Awaited.AGENT),
        ([RUNNING, event("session.status_terminated")], Awaited.NOBODY),
        ([RUNNING, idle(reason="retries_exhausted")], Awaited.NOBODY),
        ([RUNNING, event("session.status_idle", stop_reason=None)], Awaited.NOBODY),
        ([RUNNING, event("session.status_idle")], Awaited.NOBODY),
        ([RUNNING, idle(reason="budget_reached")], Awaited.NOBODY),
        ([RUNNING, idle(reason="never_seen_before")], Awaited.NOBODY),
        ([RUNNING, event("session.status_dreaming")], Awaited.UNKNOWN),
        ([RUNNING, event("session.status_dreaming"), ENDED], Awaited.NOBODY),
        ([RUNNING, call("sevt_1"), idle("sevt_1"), event("agent.dreams")], Awaited.RESULTS),
        ([RUNNING, ENDED, event("agent.dreams"), event("session.usage")], Awaited.NOBODY),
        ([RUNNING, call("sevt_1", None), idle("sevt_1")], Awaited.RESULTS),
        ([RUNNING, call("sevt_1", "whim"), idle("sevt_1")], Awaited.USER),
        ([RUNNING, call("sevt_1", "whim"), idle("sevt_1"), ALLOWED], Awaited.RESULTS),
        ([RUNNING, call("sevt_1", "deny"), idle("sevt_1"), ALLOWED], Awaited.USER),
        ([RUNNING, call("sevt_1", type_="agent.new_tool_use"), idle("sevt_1")], Awaited.USER),
        ([RUNNING, thread("running")], Awaited.AGENT),
        ([RUNNING, call("sevt_1"), thread("idle", "sevt_1")], Awaited.RESULTS),
        ([RUNNING, call("sevt_1", "ask"), thread("idle", "sevt_1")], Awaited.USER),
        ([RUNNING, call("sevt_1", "ask"), thread("idle", "sevt_1"), ALLOWED], Awaited.RESULTS),
        ([RUNNING, call("sevt_1"), thread("idle", "sevt_1"), RESULT], Awaited.AGENT),
        ([RUNNING, call("sevt_1"), thread("idle", "sevt_1"), RESULT, thread("running")], Awaited.AGENT),
        ([RUNNING, call("sevt_1"), thread("idle", "sevt_1"), thread("terminated")], Awaited.AGENT),
        ([RUNNING, call("sevt_1"), thread("idle", "sevt_1"), OF_THREAD], Awaited.AGENT),
        ([RUNNING, call("sevt_1"), thread("idle", "sevt_1"), ENDED], Awaited.NOBODY),
        ([call("sevt_1"), RUNNING, thread("idle", "sevt_1")], Awaited.RESULTS),
        ([event(""), SimpleNamespace(), RUNNING, ENDED], Awaited.NOBODY),
    ],
)
def test_next_actor_of_a_session(oldest_first: list[SimpleNamespace], awaited: Awaited) -> None:
    turn = read_turn(reversed(oldest_first))
    assert turn.awaited is awaited
    assert turn.newest_event == (oldest_first[-1].id if oldest_first else "")


def test_the_oldest_call_that_only_a_worker_answers_is_the_one_that_runs() -> None:
    asked = [
        call("sevt_0", "ask"),
        call("sevt_1"),
        call("sevt_2"),
        call("sevt_3", type_="agent.custom_tool_use"),
    ]
    for each in asked:
        each.name = "bash"
    turn = read_turn(reversed([RUNNING, *asked, idle(*(each.id for each in asked))]))
    assert (turn.awaited, turn.open_calls) == (Awaited.RESULTS, (("sevt_1", "bash"),))
    assert read_turn(reversed([RUNNING, call("sevt_1", "ask"), idle("sevt_1")])).open_calls == ()


def test_the_oldest_call_of_each_thread_runs() -> None:
    threads = {"sevt_1": "sthr_1", "sevt_2": "sthr_1", "sevt_3": "sthr_2", "sevt_4": None}
    asked = [call(identifier) for identifier in threads]
    for each in asked:
        each.name, each.session_thread_id = "bash", threads[each.id]
    turn = read_turn(reversed([RUNNING, *asked, idle(*threads)]))
    assert set(turn.open_calls) == {("sevt_1", "bash"), ("sevt_3", "bash"), ("sevt_4", "bash")}


@pytest.mark.parametrize("reason", ["end_turn", "budget_reached", "never_seen_before"])
def test_the_end_of_a_turn_has_the_sessions_stop_reason(reason: str) -> None:
    assert read_turn([idle(reason=reason), RUNNING]).stop_reason == reason


def test_no_more_events_are_read_than_the_answer_needs() -> None:
    newest_first = iter([event("agent.message"), ENDED, *[event("agent.message")] * 1000])
    assert read_turn(newest_first).awaited is Awaited.NOBODY
    assert len(list(newest_first)) == 1000


def test_events_in_the_wrong_order_are_noticed() -> None:
    events = [event("a", processed_at=ago(3)), event("b", processed_at=None), event("c", processed_at=ago(1))]
    assert is_oldest_first(events)
    assert not is_oldest_first(events[::-1])
    assert not is_oldest_first(events[:1])
