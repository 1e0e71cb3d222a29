"""Leases that a worker may have left although it never got an answer to its heartbeat."""

from __future__ import annotations

from datetime import timedelta

import pytest
from managed_session_api.conditions import Reason
from managed_session_operator.domain.decide import LEASE_SECONDS, decide
from managed_session_operator.domain.recovery import StallEvidence
from managed_session_operator.domain.work_item import WorkItem

from .examples import PAUSED, SESSION, ago, observation, session, work

ACTIVE = WorkItem(SESSION, SESSION, "active", ago(20), latest_heartbeat_at=ago(15))


def test_a_lease_with_a_first_heartbeat_is_awaited_until_a_reported_time() -> None:
    status = {"work": work(acknowledged=50, finished=5, reason="LeaseLost"), "sandbox": PAUSED}
    decision = decide(session(status), observation())
    assert decision.reason is Reason.AWAITING_LEASE
    assert f"{ago(5) + timedelta(seconds=LEASE_SECONDS):%H:%M:%SZ}" in decision.message


def test_the_work_list_shows_the_lease_of_a_worker_without_an_answer() -> None:
    status = {"work": work(acknowledged=50, finished=5, reason="Killed"), "sandbox": PAUSED}
    assert decide(session(status), observation()).reason is Reason.IDLE
    decision = decide(session(status), observation(evidence=StallEvidence(ago(1), ACTIVE)))
    assert decision.reason is Reason.AWAITING_LEASE
    assert decision.again_after == pytest.approx(LEASE_SECONDS - 15)


def test_an_abandoned_claim_awaits_no_lease() -> None:
    status = {"work": work(acknowledged=50, finished=5, reason="StartFailed"), "sandbox": PAUSED}
    decision = decide(session(status), observation(evidence=StallEvidence(ago(1), ACTIVE)))
    assert decision.reason is Reason.WORKER_START_FAILED
