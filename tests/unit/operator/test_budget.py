"""A session whose budget is used up has its own state, and never counts as stuck."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from managed_session_api.conditions import Phase, Reason
from managed_session_api.reasons import REASONS
from managed_session_operator.domain.budget import budget_reached
from managed_session_operator.domain.conditions import phase_of
from managed_session_operator.domain.decide import decide
from managed_session_operator.domain.recovery import StallEvidence
from managed_session_operator.domain.step import Step
from managed_session_operator.domain.turn import BUDGET_REACHED, Awaited, Inspection, Turn

from .examples import CLAIM, NOW, ago, observation, session

EVENT = "session.budget_reached"


def status(stop_reason: str | None, event: str | None = None, at: datetime = NOW) -> dict[str, Any]:
    work = {"id": "sesn_01AbC", "claim": CLAIM, "finishedAt": ago(60), "exitReason": "Idle"}
    last = {"lastEvent": {"id": "whe_1", "type": event, "createdAt": at}} if event else {}
    return {"work": {**work, "stopReason": stop_reason}, "sandbox": {"id": "i1", "state": "Paused"}, **last}


@pytest.mark.parametrize(
    ("stop_reason", "event", "at", "reached"),
    [
        (BUDGET_REACHED, None, NOW, True),
        (BUDGET_REACHED, EVENT, ago(90), True),
        ("end_turn", EVENT, ago(30), True),
        (None, EVENT, ago(30), True),
        ("end_turn", EVENT, ago(90), False),
        ("end_turn", None, NOW, False),
        (None, None, NOW, False),
        ("never_seen_before", None, NOW, False),
    ],
)
def test_the_newer_of_turn_end_and_event_decides_whether_the_budget_is_reached(
    stop_reason: str | None, event: str | None, at: datetime, reached: bool
) -> None:
    resource = session(status(stop_reason, event, at))
    assert budget_reached(resource) is reached
    decision = decide(resource, observation())
    assert (decision.step, decision.reason is Reason.BUDGET_REACHED) == (Step.WAIT, reached)


def test_an_announced_run_that_reaches_the_budget_is_no_longer_awaited() -> None:
    assert decide(session(status("end_turn", "session.status_run_started", ago(1))), observation()).step is (
        Step.PROVISION
    )
    assert decide(session(status("end_turn", EVENT, ago(1))), observation()).step is Step.WAIT


def test_a_session_whose_budget_is_raised_is_served_again() -> None:
    run = session(status(BUDGET_REACHED, "session.status_run_started", ago(1)))
    assert decide(run, observation()).step is Step.PROVISION


def test_a_suspected_session_whose_budget_is_reached_is_inspected_and_not_stuck() -> None:
    suspected = {**status(None), "recovery": {"suspectedAt": ago(60)}}
    inspection = Inspection(Turn(Awaited.NOBODY, "sevt_9", stop_reason=BUDGET_REACHED), NOW, ago(50))
    evidence = StallEvidence(listed_at=ago(1), inspection=inspection)
    assert decide(session(suspected), observation(evidence=evidence)).reason is not Reason.SESSION_STUCK
    settled = {**status(BUDGET_REACHED), "recovery": {"suspectedAt": ago(60), "checkedAt": NOW}}
    assert decide(session(settled), observation(evidence=evidence)).reason is Reason.BUDGET_REACHED


def test_a_reached_budget_is_reported_with_its_remedy_and_is_not_an_error() -> None:
    assert phase_of(Reason.BUDGET_REACHED) is Phase.IDLE
    assert "Raise the session's budget" in REASONS[Reason.BUDGET_REACHED].remedy


def test_a_session_with_an_unknown_event_is_not_stuck() -> None:
    suspected = {**status(None), "recovery": {"suspectedAt": ago(600)}}
    inspection = Inspection(Turn(Awaited.UNKNOWN, "sevt_9"), NOW, ago(500))
    decision = decide(
        session(suspected), observation(evidence=StallEvidence(listed_at=ago(1), inspection=inspection))
    )
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.IDLE)
    assert "does not know" in decision.message
