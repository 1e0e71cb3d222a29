"""A worker leaves an idle session, whatever event comes after the turn's end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from managed_session_worker.idle_watch import IdleWatch

from .worker_sandbox import Sandbox
from .worker_wire import Wire

AFTER_THE_TURN: list[tuple[str, dict[str, Any]]] = [
    ("user.interrupt", {}),
    ("user.tool_result", {"tool_use_id": "sevt_interrupted", "content": []}),
    ("session.updated", {}),
    ("session.later_kind", {}),
]


@pytest.mark.parametrize(("kind", "fields"), AFTER_THE_TURN, ids=[kind for kind, _ in AFTER_THE_TURN])
def test_worker_leaves_although_an_event_comes_after_the_turn(
    sandbox: Sandbox, wire: Wire, kind: str, fields: dict[str, Any]
) -> None:
    client = sandbox.start(maxIdleSeconds=0.5)
    wire.say()
    assert wire.run("echo done") == ("done", False)
    wire.end_turn()
    wire.emit(kind, **fields)
    record = client.record()
    assert (record["reason"], record["toolCalls"]) == ("Idle", 1)


def test_worker_leaves_a_session_that_was_interrupted_before_it_started(sandbox: Sandbox, wire: Wire) -> None:
    wire.say()
    wire.end_turn()
    wire.emit("user.interrupt")
    assert sandbox.start(maxIdleSeconds=0.5).record()["reason"] == "Idle"


def test_worker_stays_for_a_run_that_follows_an_interrupt(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(maxIdleSeconds=0.5)
    wire.say()
    wire.end_turn()
    wire.emit("user.interrupt")
    wire.emit("session.status_running")
    assert wire.run("sleep 2; echo done") == ("done", False)
    assert wire.run("echo again") == ("again", False)
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["toolCalls"]) == ("Idle", 2)


async def test_a_restarted_watch_leaves_although_it_has_read_all_events() -> None:
    left = asyncio.Event()
    watch = IdleWatch(left.set, max_idle_seconds=0)
    watch.read([{"id": "sevt_1", "type": "session.status_idle", "stop_reason": {"type": "end_turn"}}])
    watch.pause()
    watch.restart()
    await asyncio.wait_for(left.wait(), 30)


def test_the_record_tells_how_often_the_session_went_on_while_the_worker_waited(
    sandbox: Sandbox, wire: Wire
) -> None:
    # Another worker waited for the first message's answer.
    wire.say()
    wire.end_turn()
    wire.say()
    client = sandbox.start(maxIdleSeconds=2)
    for word in ("one", "two", "three"):
        assert wire.run(f"echo {word}") == (word, False)
        wire.end_turn()
        if word != "three":
            wire.say()
    record = client.record()
    assert (record["reason"], record["toolCalls"], record["returns"]) == ("Idle", 3, 2)


def test_pages_of_the_history_are_no_returns(sandbox: Sandbox, wire: Wire) -> None:
    for _ in range(3):
        wire.say()
        wire.end_turn()
    # The first page ends with a turn's end, and the next one begins with a message.
    wire.page_size = next(at for at, event in enumerate(wire.events, 1) if event["type"].endswith("_idle"))
    assert sandbox.start(maxIdleSeconds=0.5).record()["returns"] == 0


def idle(number: int, kind: str = "end_turn") -> dict[str, Any]:
    return {"id": f"sevt_{number}", "type": "session.status_idle", "stop_reason": {"type": kind}}


def runs(number: int) -> dict[str, Any]:
    return {"id": f"sevt_{number}", "type": "session.status_running"}


@pytest.mark.parametrize(
    ("reads", "returns"),
    [
        pytest.param([[idle(1), runs(2), idle(3), runs(4)]], [], id="the history"),
        pytest.param([[idle(1)], [runs(2)], [idle(3)], [runs(4)]], [1, 2], id="runs that it waited for"),
        pytest.param([[idle(1)], [runs(2), runs(3)]], [1], id="one run, told twice"),
        pytest.param([[idle(1)], [idle(1), runs(2)], [runs(2)]], [1], id="the history after a cut"),
        pytest.param([[idle(1, "requires_action")], [runs(2)]], [], id="an answer to a call"),
    ],
)
async def test_a_watch_counts_runs_that_it_waited_for(reads: list[Any], returns: list[int]) -> None:
    counted: list[int] = []
    watch = IdleWatch(lambda: None, 60, counted.append)
    for events in reads:
        watch.read(events)
    watch.pause()
    assert counted == returns
