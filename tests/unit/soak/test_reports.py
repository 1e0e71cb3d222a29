"""What users read: answers, messages broken off, results that came twice, what is said of lost files."""

from __future__ import annotations

from typing import Any

from managed_session_local.simulators.anthropic.client import SessionReport, TurnTimes

from ...soak.inquiry import repeated_results
from ...soak.plan import Message
from ...soak.users import answer_to, is_answered, is_closed, loss_untold

FIRST, SECOND = Message("s1t1m1", "true"), Message("s1t2m1", "true")


def message(event_id: str, sent: Message) -> dict[str, Any]:
    return {"type": "user.message", "id": event_id, "content": [{"type": "text", "text": sent.text}]}


def said(text: str) -> dict[str, Any]:
    return {"type": "agent.message", "id": "sevt_a", "content": [{"type": "text", "text": text}]}


def turn(event_id: str, *, answered: float | None = None, interrupted: float | None = None) -> TurnTimes:
    times: dict[str, Any] = dict.fromkeys(TurnTimes.model_fields)
    own = {"message_id": event_id, "sent_at": 1.0, "worker_live": False}
    return TurnTimes(**{**times, **own, "answered_at": answered, "interrupted_at": interrupted})


def report(**fields: Any) -> SessionReport:
    empty: dict[str, Any] = {
        "counts": {}, "turns": [], "worker_streams": 0, "session": None, "events": [],
        "waiting_for": [], "work": None, "timeline": [], "deliveries": [],
    }  # fmt: skip
    return SessionReport.model_validate({**empty, **fields})


def test_message_is_closed_by_its_answer_or_by_an_interrupt_and_no_other_ones() -> None:
    seen = report(
        events=[message("sevt_1", FIRST), message("sevt_2", SECOND), said("kept-s1t1m1\ndone-s1t1m1")],
        turns=[turn("sevt_1", answered=2.0), turn("sevt_2")],
    )
    assert is_closed(seen, FIRST)
    assert is_answered(seen, FIRST)
    assert not is_closed(seen, SECOND)
    broken_off = seen.model_copy(update={"turns": [turn("sevt_2", interrupted=3.0)]})
    assert is_closed(broken_off, SECOND)
    assert not is_answered(broken_off, SECOND)


def test_answer_of_a_task_is_the_one_that_ends_with_its_token() -> None:
    seen = report(events=[said("kept-s1t1m1\ndone-s1t1m1"), said("kept-s1t1m1\nkept-s1t2m1\ndone-s1t2m1")])
    assert answer_to(seen, SECOND) == "kept-s1t1m1\nkept-s1t2m1\ndone-s1t2m1"
    assert answer_to(seen, Message("s1t3m1", "true")) is None


def test_result_is_doubled_only_if_its_call_had_one_already() -> None:
    given = {"kind": "results", "tool_use_id": "tool_1"}
    again = {"kind": "results_repeated", "tool_use_id": "tool_1"}
    of_a_broken_off_call = {"kind": "results_repeated", "tool_use_id": "tool_2"}
    assert repeated_results(report(timeline=[given, of_a_broken_off_call])) == 0
    other_worker = {"kind": "leases"}
    assert repeated_results(report(timeline=[given, again])) == 0, "the same worker lost the answer"
    assert repeated_results(report(timeline=[given, other_worker, again])) == 1


SILENT: dict[str, Any] = {"status": {"conditions": []}}
LOST: dict[str, Any] = {"status": {"conditions": [{"type": "WorkspaceLost", "status": "True"}]}}


async def untold(*answers: dict[str, Any] | None, said: float = 0.0, patience: float = 60.0) -> str:
    """What is found in an API server's answers, None where it gives none."""
    left = iter(answers)

    async def look() -> dict[str, Any] | None:
        return next(left)

    return await loss_untold(look, said_seconds=said, patience_seconds=patience)


async def test_api_server_that_does_not_answer_is_asked_again_whether_files_were_lost() -> None:
    assert await untold(None, None, LOST) == ""


async def test_loss_that_the_api_server_does_not_tell_of_is_found() -> None:
    assert await untold(SILENT) == "WorkspaceLost is not True"
    assert await untold({}) == "WorkspaceLost is not True", "there is no such resource"
    assert await untold(None, SILENT) == "WorkspaceLost is not True"


async def test_loss_may_be_told_of_a_little_later() -> None:
    assert await untold(SILENT, LOST, said=30.0) == ""


async def test_loss_that_is_never_seen_told_of_is_found_whatever_the_api_server_does() -> None:
    assert "not seen" in await untold(None, patience=0.0)
    assert "not seen" in await untold(SILENT, said=30.0, patience=0.0)
