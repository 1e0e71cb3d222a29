"""Decisions about a worker that serves late: a message that arrived while its work was being stopped."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from managed_session_api.conditions import Reason
from managed_session_api.times import to_wire
from managed_session_operator.domain.decide import HAND_OVER_PATIENCE, decide
from managed_session_operator.domain.step import Step

from .examples import NOW, PAUSED, RUNNING, ago, observation, offer, record, run, session, work

SERVING = {"work": work(acknowledged=50, heartbeat=40), "sandbox": RUNNING}
LATE = {"work": {**SERVING["work"], "servingLateSince": to_wire(ago(10))}, "sandbox": RUNNING}
LISTENED_TO: dict[str, Any] = {"run": run(heartbeat=True, late=True), "connected": True}


def _step(status: dict[str, Any], **known: Any) -> Step:
    return decide(session(status), observation(**known)).step


def test_late_serving_is_recorded_once() -> None:
    assert _step(SERVING, **LISTENED_TO) is Step.RECORD_LATE_SERVING
    decision = decide(session(LATE), observation(**LISTENED_TO))
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.RUNNING)


@pytest.mark.parametrize("status", [SERVING, LATE], ids=["reported", "recorded"])
def test_newer_work_waits_for_the_end_of_a_worker_that_serves_late(status: dict[str, Any]) -> None:
    assert _step(status, offer=offer(1), **LISTENED_TO) is not Step.CLAIM
    ended = {"run": run(heartbeat=True, late=True, record=record()), "connected": True}
    assert _step(status, offer=offer(1), **ended) is Step.FINISH


def test_newer_work_is_claimed_if_a_late_worker_does_not_end() -> None:
    long_ago = NOW - HAND_OVER_PATIENCE - timedelta(seconds=1)
    assert _step(LATE, offer=offer(1), offer_waits_since=long_ago, **LISTENED_TO) is Step.CLAIM


@pytest.mark.parametrize("known", [None, run(cut="reset")])
def test_a_late_worker_without_a_listener_is_reattached_before_newer_work(known: Any) -> None:
    assert _step(LATE, offer=offer(1), run=known, connected=False) is Step.REATTACH


def test_a_late_worker_is_extended_rolled_over_suspended_and_finished_like_any_other() -> None:
    assert _step(LATE, extend_at=ago(1), **LISTENED_TO) is Step.EXTEND
    assert _step(LATE, roll_over_at=ago(1), **LISTENED_TO) is Step.ROLL_OVER
    suspended = session(LATE, spec={"lifecycle": {"suspend": True}})
    assert decide(suspended, observation(**LISTENED_TO)).step is Step.SUSPEND
    assert _step({**LATE, "endedAt": to_wire(ago(1))}, **LISTENED_TO) is Step.SUSPEND


def test_no_lease_is_awaited_after_late_serving() -> None:
    killed = {**LATE["work"], "finishedAt": to_wire(ago(5)), "exitReason": "Killed"}
    decision = decide(session({"work": killed, "sandbox": PAUSED}), observation())
    assert decision.reason is not Reason.AWAITING_LEASE
