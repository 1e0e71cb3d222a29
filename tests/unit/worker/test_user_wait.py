"""A worker reports when its session starts and stops waiting for the user."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from managed_session_worker.user_wait import Call, UserWait

from ...support.waiting import wait_until
from .worker_sandbox import FIRST, SECOND, Sandbox, Supervisorctl
from .worker_wire import Wire

ASKED: dict[str, Any] = {"name": "bash", "input": {"command": "echo done"}, "evaluated_permission": "ask"}


def ask(wire: Wire, kind: str = "agent.tool_use", **fields: Any) -> str:
    identifier = wire.emit(kind, **fields)
    wire.emit("session.status_idle", stop_reason={"type": "requires_action", "event_ids": [identifier]})
    return identifier


def waits(client: Supervisorctl) -> list[list[Call]]:
    return [event["calls"] for event in list(client.events) if event["event"] == "awaiting"]


def test_call_that_needs_confirmation_is_reported_until_confirmed_and_then_runs(
    sandbox: Sandbox, wire: Wire
) -> None:
    client = sandbox.start()
    wire.say()
    identifier = ask(wire, **ASKED)
    call = {"id": identifier, "tool": "bash", "answer": "user.tool_confirmation"}
    wait_until(lambda: waits(client) == [[call]])
    again = sandbox.supervisorctl("watch", FIRST)
    assert again.event("accepted")["awaiting"] == [call]
    wire.emit("user.tool_confirmation", tool_use_id=identifier, result="allow")
    wait_until(lambda: waits(client) == [[call], []])
    wire.wait_for(lambda: wire.result(identifier) is not None)
    wire.end_turn()
    assert "awaiting" not in client.record()


def test_custom_tool_call_is_reported_until_its_result_comes(sandbox: Sandbox, wire: Wire) -> None:
    wire.say()
    identifier = ask(wire, "agent.custom_tool_use", name="approve", input={})
    client = sandbox.start()
    wait_until(lambda: [[call["tool"] for call in calls] for calls in waits(client)] == [["approve"]])
    wire.emit("user.custom_tool_result", custom_tool_use_id=identifier, content=[])
    wait_until(lambda: len(waits(client)) == 2)
    assert wire.run("echo on") == ("on", False)
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    assert waits(client)[1] == []


def test_quick_answer_is_not_reported_as_a_wait(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    wire.say()
    identifier = ask(wire, **ASKED)
    threading.Event().wait(0.2)
    wire.emit("user.tool_confirmation", tool_use_id=identifier, result="deny")
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    assert waits(client) == []


def test_worker_leaves_an_idle_session_whose_call_was_never_confirmed(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(maxIdleSeconds=0.5)
    wire.say()
    ask(wire, **ASKED)
    wait_until(lambda: waits(client))
    wire.emit("user.interrupt")
    wire.end_turn()
    wire.emit("session.status_running")
    assert wire.run("echo on") == ("on", False)
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["toolCalls"]) == ("Idle", 1)
    assert waits(client)[1:] == [[]]
    again = sandbox.start(SECOND, maxIdleSeconds=0.5)
    assert again.record()["reason"] == "Idle"


def event(kind: str, identifier: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "id": identifier, **fields}


def idle(identifier: str, *calls: str) -> dict[str, Any]:
    reason = {"type": "requires_action", "event_ids": list(calls)} if calls else {"type": "end_turn"}
    return event("session.status_idle", identifier, stop_reason=reason)


ASK = event("agent.tool_use", "ask", name="bash", evaluated_permission="ask")
NEW = event("agent.tool_use", "new", name="bash", evaluated_permission="a later value")
RUN = event("agent.tool_use", "run", name="bash", evaluated_permission="allow")
CUSTOM = event("agent.custom_tool_use", "custom", name="approve")


@pytest.mark.parametrize(
    ("events", "calls"),
    [
        ([ASK, idle("1", "ask")], ["ask"]),
        ([NEW, CUSTOM, idle("1", "new", "custom")], ["new", "custom"]),
        ([ASK], []),
        ([RUN, idle("1", "run")], []),
        ([ASK, RUN, idle("1", "ask", "run")], []),
        ([ASK, RUN, idle("1", "ask", "run"), event("user.tool_result", "2", tool_use_id="run")], ["ask"]),
        (
            [ASK, idle("1", "ask"), event("user.tool_confirmation", "2", tool_use_id="ask", result="allow")],
            [],
        ),
        ([ASK, idle("1", "ask"), event("user.tool_confirmation", "2", tool_use_id="ask", result="deny")], []),
        ([ASK, idle("1", "ask"), event("user.interrupt", "2")], []),
        ([ASK, idle("1", "ask"), event("session.status_running", "2")], []),
        ([ASK, idle("1", "ask"), idle("2")], []),
        ([ASK, idle("1", "ask"), event("session.deleted", "2")], []),
        ([ASK, idle("1", "ask"), idle("2"), ASK, idle("1", "ask")], []),
        ([ASK, idle("1", "ask"), event("later.kind", "2"), "no event", {"type": None}], ["ask"]),
        ([ASK, event("session.status_idle", "1", stop_reason={"type": "requires_action"})], []),
        ([ASK, event("session.status_idle", "1", stop_reason="later")], []),
    ],
)
def test_session_waits_for_its_user_if_nobody_else_can_continue(events: list[Any], calls: list[str]) -> None:
    reports: list[list[Call]] = [[]]
    wait = UserWait(reports.append)
    for each in events:
        wait.read([each])
    assert [call["id"] for call in reports[-1]] == calls
    assert all(before != after for before, after in itertools.pairwise(reports))
