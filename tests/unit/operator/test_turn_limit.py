"""Since when a turn lasts, when that is looked at, and what becomes of a turn that is too long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from managed_session_api.conditions import Reason
from managed_session_api.times import to_wire
from managed_session_operator.clients.anthropic.work_queue import WorkQueue
from managed_session_operator.domain.decide import decide
from managed_session_operator.domain.session_cache import SessionCache
from managed_session_operator.domain.step import Decision, Step
from managed_session_operator.domain.turn_limit import (
    INTERRUPT_PATIENCE,
    TurnStart,
    check_at,
    message,
    was_too_long,
)

from .examples import (
    CLAIM,
    NOW,
    PAUSED,
    RUNNING,
    ago,
    announced_run,
    key,
    observation,
    offer,
    run,
    session,
    work,
)
from .open_answers import Answering


def event(kind: str, seconds_ago: float | None, **more: Any) -> Any:
    at = ago(seconds_ago) if seconds_ago is not None else None
    return SimpleNamespace(type=kind, processed_at=at, **more)


def idle(seconds_ago: float, reason: str = "end_turn") -> Any:
    return event("session.status_idle", seconds_ago, stop_reason=SimpleNamespace(type=reason))


RUNS = [event("agent.tool_use", 5), event("session.status_running", 50), event("user.message", 51)]


@pytest.mark.parametrize(
    ("events", "began"),
    [
        ([], None),
        ([idle(1)], None),
        ([idle(1), *RUNS], None),
        (RUNS, 51),
        ([*RUNS, idle(60), event("user.message", 900)], 51),
        ([event("user.message", 2), idle(3), *RUNS], 2),
        ([idle(1, "requires_action"), *RUNS, idle(60)], 51),
        ([event("user.message", None), idle(3)], None),
        ([event("agent.message", 1), event("user.interrupt", 2, session_thread_id=None), *RUNS], 1),
        ([event("user.interrupt", 2, session_thread_id="thread_1"), *RUNS], 51),
        ([event("span.something", 1), *RUNS], 51),
        ([event("user.tool_confirmation", 3), idle(4, "requires_action"), *RUNS], 50),
        ([event("user.custom_tool_result", 1), idle(4, "requires_action"), *RUNS], 48),
        (
            [
                event("user.tool_confirmation", 1),
                event("user.tool_confirmation", 3),
                idle(4, "requires_action"),
                *RUNS,
            ],
            48,
        ),
        (
            [
                event("user.tool_confirmation", 1),
                idle(2, "requires_action"),
                event("user.tool_confirmation", 2),
                idle(4, "requires_action"),
                *RUNS,
            ],
            48,
        ),
        ([event("user.tool_result", 1), idle(4, "requires_action"), *RUNS], 51),
    ],
    ids=str,
)
def test_a_turn_begins_after_the_end_of_the_one_before(events: list[Any], began: float | None) -> None:
    start = TurnStart(ago(1000))
    any(start.read(each) for each in events)
    assert start.began == (ago(began) if began is not None else None)


def test_reading_stops_once_the_turn_is_known_to_be_too_long() -> None:
    start = TurnStart(ago(20))
    read = [each.type for each in [*RUNS, event("user.message", 99)] if not start.read(each)]
    assert start.began is not None
    assert start.began <= ago(20)
    assert len(read) < len(RUNS)


async def test_the_beginning_is_read_from_the_sessions_events(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        {"id": "sevt_3", "type": "session.status_running", "processed_at": to_wire(ago(9))},
        {"id": "sevt_2", "type": "user.message", "processed_at": to_wire(ago(10)), "content": []},
        {
            "id": "sevt_1",
            "type": "session.status_idle",
            "processed_at": to_wire(ago(60)),
            "stop_reason": {"type": "end_turn"},
        },
    ]
    queue = WorkQueue(lambda: "env_1", key(), worker_id="test", fence=lambda: None, timeout=30)
    async with Answering().serving() as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        server.body = {"data": listed, "next_page": None}
        assert await queue.turn_began("sesn_1", before=ago(1000)) == ago(10)
        # Events in the other order, as from a server that ignores the one that was asked for.
        server.body = {"data": [*reversed(listed)], "next_page": None}
        assert await queue.turn_began("sesn_1", before=ago(1000)) == ago(10)
        server.status = 404
        server.body = {"type": "error", "error": {"type": "not_found_error", "message": "no"}}
        assert await queue.turn_began("sesn_1", before=ago(1000)) is None


SERVED = session({"sandbox": RUNNING, "work": work(acknowledged=80, heartbeat=70)})


def test_a_turn_is_looked_at_when_it_may_be_too_long() -> None:
    cache = SessionCache()
    assert check_at(SERVED, cache, None) is None
    assert check_at(session({"work": work(acknowledged=80)}), cache, 60) is None
    assert check_at(SERVED, cache, 60) == ago(10)
    cache.turn_began = (CLAIM, ago(30))
    assert check_at(SERVED, cache, 60) == ago(-30)
    cache.turn_began = ("an earlier claim", ago(30))
    assert check_at(SERVED, cache, 60) == ago(10)
    cache.turn_interrupted = (CLAIM, NOW)
    assert check_at(SERVED, cache, 60) == NOW + INTERRUPT_PATIENCE


def test_a_running_turn_is_checked_at_that_time_and_waits_for_no_longer() -> None:
    live = {"run": run(heartbeat=True), "connected": True, "extend_at": ago(-300)}
    assert decide(SERVED, observation(**live, turn_check_at=ago(0))).step is Step.CHECK_TURN
    waits = decide(SERVED, observation(**live, turn_check_at=ago(-5)))
    assert (waits.step, waits.again_after) == (Step.WAIT, 5.0)
    assert decide(SERVED, observation(**live)).again_after == 300.0


def ended(sandbox: dict[str, Any] = PAUSED, *, checked: float | None = None, **status: Any) -> Any:
    recovery = {"suspectedAt": to_wire(ago(40))}
    if checked is not None:
        recovery["checkedAt"] = to_wire(ago(checked))
    done = work(acknowledged=80, heartbeat=70, finished=40, reason="TurnTooLong")
    return session({"sandbox": sandbox, "work": done, "recovery": recovery, **status})


@pytest.mark.parametrize(("checked", "expected"), [(None, True), (50, True), (30, False)])
def test_a_session_is_held_back_until_a_check_has_found_the_turn_over(
    checked: float | None, expected: bool
) -> None:
    assert was_too_long(ended(checked=checked)) is expected


def test_a_session_whose_turn_was_too_long_is_not_served_and_says_so() -> None:
    decision = decide(ended(), observation(turn_limit=60))
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.TURN_TOO_LONG)
    assert decision.message == message(60, can_interrupt=False)
    assert "user.interrupt" in decision.message
    assert decide(ended(RUNNING), observation(turn_limit=60)) == Decision(Step.PAUSE)


def test_new_work_a_new_event_and_another_limit_have_the_turn_checked_again() -> None:
    assert decide(ended(), observation(turn_limit=60, offer=offer())).step is Step.CHECK_TURN
    told = ended(lastEvent=announced_run(1))
    assert decide(told, observation(turn_limit=60, turn_check_due=True)).step is Step.CHECK_TURN
    assert decide(told, observation(turn_limit=60)).step is Step.WAIT
    assert decide(ended(), observation(turn_limit=None)).step is Step.CHECK_TURN
