"""Turns are found in Events and in the status, also where one of them knows only a part."""

from __future__ import annotations

from typing import Any

from managed_session_dashboard.session_events import SessionEvent, SessionEvents
from managed_session_dashboard.turns import Turn, turns_of

T0 = 1773835200.0


def at(second: float) -> str:
    return f"2026-03-18T12:{int(second) // 60:02}:{second % 60:09.6f}Z"


def event(reason: str, second: float, *, warning: bool = False) -> SessionEvent:
    return SessionEvent(T0 + second, warning, reason, f"about {reason}", "u")


WHOLE = [
    event("Claimed", 0),
    event("SandboxCreated", 3),
    event("WorkerStarted", 4),
    event("WorkerFinished", 60, warning=True),
]


def test_turn_of_events_alone() -> None:
    (turn,) = turns_of(WHOLE, {})
    assert turn == Turn(T0, T0 + 3, T0 + 4, T0 + 60, "about WorkerFinished", warning=True)


def test_status_makes_the_newest_turn_exact() -> None:
    work = {
        "offeredAt": at(0.25),
        "acknowledgedAt": at(3.5),
        "firstHeartbeatAt": at(4.125),
        "finishedAt": at(60.5),
    }
    (turn,) = turns_of(WHOLE, {"work": work})
    assert (turn.claimed, turn.sandbox, turn.started) == (T0 + 0.25, T0 + 3.5, T0 + 4.125)
    assert (turn.finished, turn.summary) == (T0 + 60.5, "about WorkerFinished")


def test_running_turn_comes_after_finished_ones() -> None:
    turns = turns_of(WHOLE, {"work": {"offeredAt": at(120), "acknowledgedAt": at(121)}})
    assert [turn.finished for turn in turns] == [T0 + 60, None]
    assert turns[-1].started is None


def test_turn_whose_events_have_not_arrived_is_in_the_status_already() -> None:
    turns = turns_of([*WHOLE, event("Claimed", 120)], {"work": {"offeredAt": at(120.5)}})
    assert [turn.claimed for turn in turns] == [T0, T0 + 120.5]


def test_turn_whose_first_events_are_gone_keeps_what_is_known() -> None:
    (turn,) = turns_of([event("WorkerStarted", 4), event("WorkerFinished", 60)], {})
    assert (turn.claimed, turn.started, turn.finished) == (None, T0 + 4, T0 + 60)
    assert turns_of([event("WorkerFinished", 60)], {}) == []


def test_status_without_work_has_no_turn() -> None:
    assert turns_of([], {}) == []


def posted(name: str, number: int, uid: str = "u", **more: Any) -> dict[str, Any]:
    about = {"kind": "ManagedSession", "name": name, "uid": uid}
    return {
        "involvedObject": about,
        "reason": "Claimed",
        "message": str(number),
        "lastTimestamp": at(number),
        **more,
    }


def messages(events: SessionEvents, name: str, uid: str = "u") -> list[str]:
    return [each.message for each in events.of(name, uid)]


def test_events_are_limited_for_each_session_and_in_all() -> None:
    changed: list[str] = []
    events = SessionEvents(per_session=3, total=5, changed=changed.append)
    for number in range(4):
        events.put(posted("a", number))
    assert messages(events, "a") == ["1", "2", "3"]
    for number in range(3):
        events.put(posted("b", number))
    assert messages(events, "a") == ["2", "3"], "the session that was silent for longest loses first"
    assert messages(events, "b") == ["0", "1", "2"]
    assert changed == ["a"] * 4 + ["b"] * 3


def test_events_of_one_second_are_in_the_order_in_which_they_were_posted() -> None:
    events = SessionEvents(per_session=3, total=5, changed=lambda _: None)
    for version in (12, 9, 10):  # a list has them in the order of their names
        body = posted("a", 1, metadata={"resourceVersion": str(version)})
        events.put({**body, "message": str(version)})
    assert messages(events, "a") == ["9", "10", "12"]


def test_event_is_kept_once_and_belongs_to_one_resource() -> None:
    events = SessionEvents(per_session=3, total=5, changed=lambda _: None)
    for _ in range(2):
        events.put(posted("a", 1))
    events.put(posted("a", 2, uid="of an earlier resource of this name"))
    events.put({**posted("a", 3), "involvedObject": {"kind": "Lease", "name": "a"}})
    events.remove(posted("a", 1))  # the API server forgets Events after an hour
    assert messages(events, "a") == ["1"]
    events.keep_only({"b"})
    assert messages(events, "a") == []
