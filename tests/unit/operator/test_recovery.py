"""When an unserved session is stuck, and how it is recovered."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from managed_session_api.conditions import Reason
from managed_session_api.times import to_wire
from managed_session_operator.domain.decide import decide
from managed_session_operator.domain.recovery import StallEvidence
from managed_session_operator.domain.step import Step
from managed_session_operator.domain.turn import Awaited, Inspection, Turn
from managed_session_operator.domain.work_item import WorkItem

from .examples import PAUSED, SESSION, ago, announced_run, observation, offer, session, work

RESYNC_INTERVAL = timedelta(seconds=30)
STOPPED = WorkItem(SESSION, SESSION, "stopped", ago(500))
QUEUED = replace(STOPPED, state="queued")
UNSTARTED = replace(STOPPED, state="starting", acknowledged_at=ago(100))
ACTIVE = replace(UNSTARTED, state="active", latest_heartbeat_at=ago(100))
ENDED = work(acknowledged=95, heartbeat=90, finished=80, reason="Idle")


def status(*, suspected: float | None = 80.0, ready: Reason | None = None, **recovery: Any) -> dict[str, Any]:
    """Return a paused session whose claim ended 80 s ago. Arguments and recovery times are seconds ago."""
    known = {key: to_wire(ago(value)) if key == "checkedAt" else value for key, value in recovery.items()}
    if suspected is not None:
        known["suspectedAt"] = to_wire(ago(suspected))
    found: dict[str, Any] = {"work": ENDED, "sandbox": PAUSED, "turns": 1, "recovery": known}
    if ready is not None:
        condition = {"type": "Ready", "status": "False", "reason": str(ready), "message": "details"}
        found["conditions"] = [{**condition, "lastTransitionTime": to_wire(ago(60))}]
    return found


def inspection(awaited: Awaited, *, since: float, at: float = 4) -> Inspection:
    return Inspection(Turn(awaited, "sevt_9"), ago(at), ago(since))


def seen(**known: Any) -> StallEvidence:
    """Return evidence from a list of 5 s ago, in which the item is stopped."""
    return StallEvidence(
        **{"listed_at": ago(5), "item": STOPPED, "resync_interval": RESYNC_INTERVAL, **known}
    )


def step(found: dict[str, Any], evidence: StallEvidence, **known: Any) -> tuple[Step, Reason | None]:
    decision = decide(session(found), observation(evidence=evidence, announced_run_expired=True, **known))
    return decision.step, decision.reason


IDLE = (Step.WAIT, Reason.IDLE)
AWAITS = (Step.WAIT, Reason.AWAITING_CLAIM)
INSPECTS = (Step.INSPECT_SESSION, None)
RESTS = (Step.WAIT, None)
STUCK = (Step.WAIT, Reason.SESSION_STUCK)
RECOVERS = (Step.RECOVER, Reason.SESSION_STUCK)


def test_session_whose_turn_ended_cleanly_is_never_inspected() -> None:
    assert step(status(suspected=None), seen()) == IDLE
    assert step(status(suspected=None), seen(item=None)) == IDLE
    assert step(status(suspected=80, checkedAt=70), seen()) == IDLE


def test_suspicion_waits_for_a_list_that_is_newer() -> None:
    assert step(status(), seen(listed_at=None)) == AWAITS
    assert step(status(), seen(listed_at=ago(90))) == AWAITS


def test_queued_work_is_awaited_without_an_inspection() -> None:
    assert step(status(), seen(item=QUEUED)) == AWAITS


def test_lease_of_a_dead_worker_lapses_first() -> None:
    dead = status() | {"work": work(acknowledged=95, heartbeat=90, finished=80, reason="Crashed")}
    assert step(dead, seen(item=ACTIVE)) == (Step.WAIT, Reason.AWAITING_LEASE)


def test_each_resync_inspects_once() -> None:
    assert step(status(), seen()) == INSPECTS
    assert step(status(), seen(inspection=inspection(Awaited.RESULTS, at=6, since=70))) == INSPECTS
    assert step(status(), seen(inspection=inspection(Awaited.RESULTS, since=4))) == AWAITS


@pytest.mark.parametrize(("can_interrupt", "outcome"), [(True, RECOVERS), (False, STUCK)])
def test_missing_results_are_certain_at_the_second_inspection(
    can_interrupt: bool, outcome: tuple[Step, Reason]
) -> None:
    twice = inspection(Awaited.RESULTS, since=30)
    assert step(status(), seen(inspection=twice, can_interrupt=can_interrupt)) == outcome


def test_agent_that_thinks_for_minutes_is_not_interrupted() -> None:
    assert step(status(), seen(inspection=inspection(Awaited.AGENT, since=240), can_interrupt=True)) == AWAITS
    assert (
        step(status(), seen(inspection=inspection(Awaited.AGENT, since=310), can_interrupt=True)) == RECOVERS
    )


def test_session_that_waits_for_its_user_is_fine_and_rarely_inspected() -> None:
    assert step(status(), seen(inspection=inspection(Awaited.USER, since=70), can_interrupt=True)) == IDLE
    assert (
        step(status(), seen(inspection=inspection(Awaited.USER, at=20, since=70), can_interrupt=True))
        == RESTS
    )
    assert (
        step(status(), seen(inspection=inspection(Awaited.USER, at=400, since=700), can_interrupt=True))
        == INSPECTS
    )


def test_recovery_ends_after_its_attempts() -> None:
    twice = inspection(Awaited.RESULTS, since=30)
    assert step(status(attempts=2), seen(inspection=twice, can_interrupt=True)) == RECOVERS
    assert step(status(attempts=3), seen(inspection=twice, can_interrupt=True)) == STUCK


def test_nothing_is_done_twice_on_one_list() -> None:
    twice = inspection(Awaited.RESULTS, since=30)
    assert step(status(), seen(inspection=twice, can_interrupt=True, acted_at=ago(1))) == RESTS


def test_report_of_a_stuck_session_stays_and_it_is_rarely_inspected() -> None:
    stuck = status(ready=Reason.SESSION_STUCK)
    assert step(stuck, seen(inspection=inspection(Awaited.RESULTS, since=4))) == RESTS
    assert step(stuck, seen(inspection=inspection(Awaited.RESULTS, at=20, since=70))) == RESTS
    assert step(stuck, seen(inspection=inspection(Awaited.RESULTS, at=400, since=700))) == INSPECTS
    assert (
        step(stuck, seen(inspection=inspection(Awaited.RESULTS, at=20, since=70), can_interrupt=True))
        == INSPECTS
    )


def test_last_attempt_without_effect_is_seen_by_the_next_resyncs() -> None:
    recovering = status(ready=Reason.RECOVERING, attempts=3)
    assert (
        step(recovering, seen(inspection=inspection(Awaited.RESULTS, at=20, since=70), can_interrupt=True))
        == INSPECTS
    )
    assert (
        step(recovering, seen(inspection=inspection(Awaited.RESULTS, since=30), can_interrupt=True)) == STUCK
    )


def stranded(since: datetime, **known: Any) -> StallEvidence:
    return seen(item=UNSTARTED, unstarted_since=since, **known)


def test_stranded_work_is_recovered_at_the_second_list() -> None:
    calm = status(suspected=None)
    assert step(calm, stranded(ago(5))) == IDLE, "it may be about to start"
    assert step(calm, stranded(ago(35))) == INSPECTS
    for awaited in Awaited:
        found = step(calm, stranded(ago(35), inspection=inspection(awaited, since=4)))
        assert found == (Step.RECOVER, Reason.WORK_STRANDED)


def test_claim_or_offer_ends_any_suspicion() -> None:
    twice = seen(inspection=inspection(Awaited.RESULTS, since=30), can_interrupt=True)
    assert step(status(), twice, offer=offer(), message_known=True)[0] is Step.CLAIM
    serving = status() | {"work": work(acknowledged=95)}
    assert step(serving, stranded(ago(35)))[0] is Step.PROVISION


def test_announcement_without_work_is_inspected_and_settled() -> None:
    announced = status(suspected=None) | {"lastEvent": announced_run(10)}
    assert step(announced, seen(announced=True)) == INSPECTS
    assert step(announced, seen(announced=True, item=ACTIVE)) == AWAITS, "somebody else serves it"
    settled = status(suspected=None, checkedAt=9) | {"lastEvent": announced_run(10)}
    assert step(settled, seen()) == IDLE
