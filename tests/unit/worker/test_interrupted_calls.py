"""Which tool calls were interrupted, according to the session's events."""

from __future__ import annotations

import itertools
from typing import Any

import httpx2
import pytest
from managed_session_worker.interrupted_calls import InterruptedCalls, with_results

_numbers = itertools.count()


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"id": f"sevt_{next(_numbers)}", "type": kind, **fields}


def call(identifier: str, thread: str | None = None, kind: str = "agent.tool_use") -> dict[str, Any]:
    return {"id": identifier, "type": kind, "session_thread_id": thread}


def idle(*calls: str, kind: str = "session.status_idle") -> dict[str, Any]:
    return event(kind, stop_reason={"type": "requires_action", "event_ids": list(calls)})


INTERRUPT = {"id": "stop", "type": "user.interrupt"}
END = event("session.status_idle", stop_reason={"type": "end_turn"})


@pytest.mark.parametrize(
    ("events", "interrupted"),
    [
        ([], set()),
        ([call("a"), idle("a")], set()),
        ([call("a"), idle("a"), END], set()),
        ([call("a"), idle("a"), INTERRUPT], {"a"}),
        ([call("a"), call("b"), idle("a", "b"), INTERRUPT, END, call("c"), idle("c")], {"a", "b"}),
        ([call("a"), event("user.tool_result", tool_use_id="a"), INTERRUPT], set()),
        ([call("a"), INTERRUPT, event("user.tool_result", tool_use_id="a")], set()),
        ([call("a"), INTERRUPT, idle("a")], set()),
        ([call("a", "t1"), INTERRUPT, idle("a", kind="session.thread_status_idle")], set()),
        ([INTERRUPT, call("a")], set()),
        ([call("a", "t1"), call("b"), event("user.interrupt", session_thread_id="t1")], {"a"}),
        ([call("a", "t1"), call("b"), event("user.interrupt", session_thread_id="t2")], set()),
        ([call("a", "t1"), call("b"), INTERRUPT], {"a", "b"}),
        ([call("a", kind="agent.custom_tool_use"), INTERRUPT], {"a"}),
        ([call("a"), INTERRUPT, event("later.kind"), "no event", {"type": None}], {"a"}),
        ([call("a"), INTERRUPT, event("session.status_idle", stop_reason="later")], {"a"}),
    ],
)
def test_a_call_is_interrupted_if_nobody_has_waited_for_it_since(
    events: list[Any], interrupted: set[str]
) -> None:
    calls = InterruptedCalls()
    for _ in range(2):
        # The worker reads the history again after each reconnect.
        calls.read(events)
    assert {each for each in ("a", "b", "c") if each in calls} == interrupted


def page(calls: InterruptedCalls, next_page: str | None) -> Any:
    document = {"data": [END], "next_page": next_page}
    request = httpx2.Request("GET", "https://api.example/v1/sessions/sesn_1/events")
    response = httpx2.Response(200, json=document, headers={"request-id": "req_1"}, request=request)
    shown = with_results(response, document, calls)
    assert (shown.status_code, shown.headers["request-id"]) == (200, "req_1")
    return shown.json()


def test_results_are_added_only_to_the_last_page_of_the_history() -> None:
    calls = InterruptedCalls()
    calls.read([call("a"), call("b", kind="agent.custom_tool_use"), INTERRUPT, END])
    assert page(calls, "more") == {"data": [END], "next_page": "more"}
    shown = page(calls, None)
    assert [each.get("tool_use_id") or each.get("custom_tool_use_id") for each in shown["data"]] == [
        "a",
        "b",
        None,
    ]
    assert shown["data"][-1] == END
    assert page(InterruptedCalls(), None)["data"] == [END]
