"""What users read: answers, interrupted messages, repeated results, and reports of lost files."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_devkit.simulators.anthropic.client import SessionReport, TurnTimes

from ...soak.evidence_collection import repeated_results
from ...soak.late_answers import answer_to_call, waiting_for_a_person
from ...soak.plan import Kind, Message
from ...soak.reports import answer_to, is_answered, is_closed
from ...soak.users import unreported_loss

FIRST, SECOND = Message("s1t1m1", "true"), Message("s1t2m1", "true")


def message(event_id: str, sent: Message) -> dict[str, Any]:
    return {"type": "user.message", "id": event_id, "content": [{"type": "text", "text": sent.text}]}


def agent_message(text: str) -> dict[str, Any]:
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


def test_message_is_closed_by_its_own_answer_or_an_interrupt() -> None:
    seen = report(
        events=[
            message("sevt_1", FIRST),
            message("sevt_2", SECOND),
            agent_message("kept-s1t1m1\ndone-s1t1m1"),
        ],
        turns=[turn("sevt_1", answered=2.0), turn("sevt_2")],
    )
    assert is_closed(seen, FIRST)
    assert is_answered(seen, FIRST)
    assert not is_closed(seen, SECOND)
    interrupted = seen.model_copy(update={"turns": [turn("sevt_2", interrupted=3.0)]})
    assert is_closed(interrupted, SECOND)
    assert not is_answered(interrupted, SECOND)


def test_answer_to_a_task_ends_with_its_token() -> None:
    seen = report(
        events=[
            agent_message("kept-s1t1m1\ndone-s1t1m1"),
            agent_message("kept-s1t1m1\nkept-s1t2m1\ndone-s1t2m1"),
        ]
    )
    assert answer_to(seen, SECOND) == "kept-s1t1m1\nkept-s1t2m1\ndone-s1t2m1"
    assert answer_to(seen, Message("s1t3m1", "true")) is None


def test_result_is_repeated_only_if_another_worker_had_posted_one() -> None:
    given = {"kind": "results", "tool_use_id": "tool_1"}
    again = {"kind": "results_repeated", "tool_use_id": "tool_1"}
    of_an_aborted_call = {"kind": "results_repeated", "tool_use_id": "tool_2"}
    assert repeated_results(report(timeline=[given, of_an_aborted_call])) == 0
    other_worker = {"kind": "leases"}
    assert repeated_results(report(timeline=[given, again])) == 0, "the same worker lost the answer"
    assert repeated_results(report(timeline=[given, other_worker, again])) == 1


@pytest.mark.parametrize("kind", Kind)
def test_message_is_found_whatever_its_kind(kind: Kind) -> None:
    mine = Message("s1t1m1", "true", kind, prepared=True)
    seen = report(events=[message("sevt_1", mine)], turns=[turn("sevt_1", answered=2.0)])
    assert is_answered(seen, mine)
    assert not is_closed(seen, mine.again(1))


def test_only_calls_that_wait_for_a_person_are_answered_and_only_once() -> None:
    ask = {"type": "agent.tool_use", "id": "ask", "evaluated_permission": "ask"}
    allowed = {"type": "agent.tool_use", "id": "allowed", "evaluated_permission": "allow"}
    custom = {"type": "agent.custom_tool_use", "id": "custom"}
    over = {"type": "agent.custom_tool_use", "id": "over"}
    events = [ask, allowed, custom, over]
    waiting = ["ask", "allowed", "custom"]
    assert waiting_for_a_person(report(events=events, waiting_for=waiting)) == [ask, custom]
    confirmation = answer_to_call(ask)
    assert confirmation == {"type": "user.tool_confirmation", "tool_use_id": "ask", "result": "allow"}
    assert answer_to_call(custom)["custom_tool_use_id"] == "custom"
    confirmed = report(events=[*events, {"id": "sevt_9", **confirmation}], waiting_for=waiting)
    assert waiting_for_a_person(confirmed) == [custom]


SILENT: dict[str, Any] = {"status": {"conditions": []}}
LOST: dict[str, Any] = {"status": {"conditions": [{"type": "WorkspaceLost", "status": "True"}]}}


async def unreported(
    *answers: dict[str, Any] | None, report_seconds: float = 0.0, patience: float = 60.0
) -> str:
    """Return the finding for these answers of the API server. None stands for a missing answer."""
    left = iter(answers)

    async def read() -> dict[str, Any] | None:
        return next(left)

    return await unreported_loss(read, report_seconds=report_seconds, patience_seconds=patience)


async def test_user_asks_again_about_lost_files_if_the_api_server_does_not_answer() -> None:
    assert await unreported(None, None, LOST) == ""


async def test_loss_that_the_resource_does_not_report_is_found() -> None:
    assert await unreported(SILENT) == "WorkspaceLost is not True"
    assert await unreported({}) == "WorkspaceLost is not True", "there is no such resource"
    assert await unreported(None, SILENT) == "WorkspaceLost is not True"


async def test_loss_may_be_reported_a_little_later() -> None:
    assert await unreported(SILENT, LOST, report_seconds=30.0) == ""


async def test_loss_that_is_not_reported_in_time_is_found_even_if_the_api_server_is_down() -> None:
    assert "not seen" in await unreported(None, patience=0.0)
    assert "not seen" in await unreported(SILENT, report_seconds=30.0, patience=0.0)
