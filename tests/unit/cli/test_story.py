"""One story from the resource, Events, exit records and Anthropic's events: in order, with lengths."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from managed_session_api.resource import ManagedSession
from managed_session_cli import story
from managed_session_cli.story import Kind, Moment, Source
from managed_session_cli.timeline import bar
from managed_session_cli.wording import ago, duration

NOW = datetime(2026, 12, 1, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def session(work: dict[str, Any] | None = None, **status: Any) -> ManagedSession:
    return ManagedSession.model_validate(
        {
            "metadata": {"name": "s", "creationTimestamp": at(-100)},
            "spec": {"sessionID": "sesn_1"},
            "status": {"work": work or {}, **status},
        }
    )


def lengths(moments: list[Moment]) -> dict[str, float]:
    return {each.text: each.seconds for each in moments if each.seconds is not None}


def test_a_served_turn_shows_each_wait_and_the_work() -> None:
    work = {
        "offeredAt": at(-58),
        "acknowledgedAt": at(-50),
        "firstHeartbeatAt": at(-48),
        "finishedAt": at(-10),
        "exitReason": "Idle",
    }
    event = {"id": "e", "type": "session.status_run_started", "createdAt": at(-60)}
    assert lengths(story.of_resource(session(work, lastEvent=event), NOW)) == {
        "wait until Anthropic's queue offers the work": 2,
        "wait for a slot and for the sandbox": 8,
        "the worker starts": 2,
        "the worker served: Idle": 38,
    }


def test_what_still_lasts_is_open_and_ends_now() -> None:
    [wait] = [each for each in story.of_resource(session({"offeredAt": at(-30)}), NOW) if each.open]
    assert (wait.text, wait.seconds) == ("wait for a slot and for the sandbox", 30)
    user = {
        "offeredAt": at(-30),
        "acknowledgedAt": at(-29),
        "firstHeartbeatAt": at(-28),
        "awaitingUserSince": at(-20),
        "awaitedAnswers": ["a confirmation of bash"],
        "waitPausedAt": at(-5),
    }
    waits = lengths([each for each in story.of_resource(session(user), NOW) if each.open])
    assert waits["wait for the user: a confirmation of bash"] == 20
    assert waits["the sandbox is paused while the user is awaited"] == 5


def test_an_unusual_condition_is_a_problem_and_a_usual_one_is_not() -> None:
    def condition(type_: str, reason: str) -> dict[str, Any]:
        return {
            "type": type_,
            "status": "False",
            "reason": reason,
            "message": "why",
            "lastTransitionTime": at(-1),
        }

    found = story.of_resource(
        session(
            conditions=[condition("Ready", "AwaitingCapacity"), condition("WorkspaceLost", "SandboxVanished")]
        ),
        NOW,
    )
    problems = {each.text: each.bad for each in found if "=" in each.text}
    assert problems == {
        "Ready=False: AwaitingCapacity: why": False,
        "WorkspaceLost=False: SandboxVanished: why": True,
    }


def test_repeated_events_are_counted_and_one_without_a_time_is_left_out() -> None:
    warning = {
        "type": "Warning",
        "reason": "SessionStuck",
        "message": "m",
        "count": 3,
        "firstTimestamp": at(-9).isoformat(),
        "lastTimestamp": at(-3).isoformat(),
    }
    [found] = story.of_events([warning, {"reason": "Nameless"}])
    assert (found.bad, found.text) == (True, "SessionStuck: m (3 times until 11:59:57)")


def test_calls_have_lengths_and_no_content() -> None:
    events = [
        SimpleNamespace(type="user.message", id="1", processed_at=at(-20), content="secret words"),
        SimpleNamespace(type="agent.tool_use", id="2", name="bash", processed_at=at(-18), input="rm"),
        SimpleNamespace(type="user.tool_result", id="3", tool_use_id="2", processed_at=at(-11)),
        SimpleNamespace(type="agent.something_new", id="4", processed_at=at(-10)),
        SimpleNamespace(
            type="session.status_idle",
            id="5",
            processed_at=at(-9),
            stop_reason=SimpleNamespace(type="end_turn"),
        ),
        SimpleNamespace(type="user.message", id="6", processed_at=None),
    ]
    found = story.of_session_events(events, NOW)
    assert lengths(found) == {"tool bash": 7}
    assert [each.text for each in found] == [
        "message of the user",
        "tool bash",
        "session idle: end_turn",
        "a message that the agent has not read yet",
    ]


def test_an_exit_record_is_told_and_an_incomplete_one_is_not() -> None:
    record = {"finishedAt": at(-5).isoformat(), "reason": "Crashed", "message": "signal 9", "toolCalls": 2}
    [found] = story.of_exit_record(record)
    assert found.text == "exit record: Crashed: signal 9 (2 tool calls, 0 with errors)"
    assert story.of_exit_record({"reason": "Crashed"}) == []


def test_turns_begin_where_another_has_ended() -> None:
    def moment(seconds: float, **more: Any) -> Moment:
        return Moment(at(seconds), Source.EVENT, "", **more)

    told = [
        moment(-4, begins_turn=True),  # before the end of the work
        moment(5, begins_turn=True),
        moment(-10),
        moment(-9, begins_turn=True),
        moment(-8, begins_turn=True),  # within the turn
        moment(-5, ends_turn=True, until=at(-3), kind=Kind.WORK),
        moment(-4),
    ]
    first, second = story.turns(told)
    assert (len(first.moments), len(second.moments)) == (6, 1)
    assert (first.began, first.ended, second.number) == (at(-10), at(-3), 2)
    assert story.turns([]) == []


@pytest.mark.parametrize(
    ("offset", "lasted", "drawn"),
    [
        (0, 24, "█" * 24),
        (12, 6, " " * 12 + "█" * 6 + " " * 6),
        (23.9, 5, " " * 23 + "█"),
        (0, 0.001, "▏" + " " * 23),
        (12, None, " " * 12 + "·" + " " * 11),
    ],
)
def test_bars_have_one_width_and_show_when_and_how_long(
    offset: float, lasted: float | None, drawn: str
) -> None:
    assert bar(offset, lasted, 24) == drawn
    assert len(bar(0, lasted, 0)) == 24


def test_lengths_of_time_are_short() -> None:
    assert [duration(each) for each in (0.04, 9.94, 59, 185, 7260, 90_000)] == [
        "0.0s",
        "9.9s",
        "59s",
        "3m05s",
        "2h01m",
        "1d1h",
    ]
    assert [ago(at(-each), NOW) for each in (5, 119, 120, 7200, 200_000)] == ["5s", "119s", "2m", "2h", "2d"]
