"""How long a worker waits for a message, by how soon its session came back before."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from managed_session_api.resource import EffectiveStatus
from managed_session_operator.domain.idle_patience import balance_at_end, idle_seconds, returns
from managed_session_operator.domain.worker_run import ExitRecord

from .examples import CLAIM, NOW, POLICY, ago, session

USUAL, SHORT = POLICY.max_idle_seconds, 2
FIXED = POLICY.model_copy(update={"min_idle_seconds": USUAL})
"""The policy that turns the short wait off."""


def work(**more: Any) -> dict[str, Any]:
    return {"work": {"claim": CLAIM, "finishedAt": ago(5), "exitReason": "Idle", **more}}


def record(returns: int | None) -> ExitRecord:
    return ExitRecord(claim=CLAIM, reason="Idle", returns=returns)


@pytest.mark.parametrize(
    ("before", "offered_at", "count"),
    [
        ({}, NOW, 1),
        ({"quickReturns": 3}, NOW, 4),
        ({"quickReturns": 3, "finishedAt": ago(60)}, NOW, None),
        ({"quickReturns": 3}, ago(6), 4),
        ({"quickReturns": 3, "exitReason": "LeaseLost"}, NOW, None),
        ({"quickReturns": 3, "finishedAt": None}, NOW, None),
    ],
)
def test_quick_returns_are_counted_until_a_slow_one(
    before: dict[str, Any], offered_at: datetime, count: int | None
) -> None:
    assert returns(session(work(**before)), POLICY, offered_at)["quickReturns"] == count


@pytest.mark.parametrize(("count", "factor"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (10**6, 4)])
def test_the_worker_waits_longer_from_the_second_return_on_within_a_bound(count: int, factor: int) -> None:
    waits = idle_seconds(session(work(quickReturns=count)), POLICY)
    assert waits == factor * POLICY.max_idle_seconds


@pytest.mark.parametrize(
    ("balance", "least", "seconds"),
    [
        pytest.param(None, 2, 10, id="nothing is known"),
        pytest.param(0, 2, 10, id="as often quick as late"),
        pytest.param(7, 2, 10, id="mostly quick"),
        pytest.param(-1, 2, 2, id="mostly late"),
        pytest.param(-1, 10, 10, id="turned off"),
        pytest.param(-1, 60, 10, id="longer than the usual wait"),
        pytest.param(-1, None, 10, id="no value"),
    ],
)
def test_the_worker_waits_less_in_a_session_that_mostly_comes_back_late(
    balance: int | None, least: int | None, seconds: int
) -> None:
    policy = POLICY.model_copy(update={"min_idle_seconds": least})
    assert idle_seconds(session(work(returnBalance=balance)), policy) == seconds


@pytest.mark.parametrize(
    ("before", "gone_for", "balance"),
    [
        pytest.param({"returnBalance": 0}, 60, -1, id="late"),
        pytest.param({"returnBalance": -1}, 60, -1, id="late for long"),
        pytest.param({"returnBalance": 10}, 60, 9, id="late after many quick ones"),
        pytest.param({"returnBalance": 0}, 9, 1, id="soon after the usual wait"),
        pytest.param({"returnBalance": 10}, 9, 10, id="soon for long"),
        pytest.param({"returnBalance": -1}, 3, 2, id="a resume that the usual wait would have saved"),
        pytest.param({"returnBalance": -1}, 17, 2, id="soon after the usual wait would have ended"),
        pytest.param({"returnBalance": -1}, 19, -1, id="later than that"),
        pytest.param({}, 60, None, id="a worker that reports nothing"),
        pytest.param({"returnBalance": 3, "exitReason": "LeaseLost"}, 60, 3, id="no worker waited"),
        pytest.param({"returnBalance": 3, "finishedAt": None}, 60, 3, id="a claim that another one follows"),
    ],
)
def test_quick_and_late_returns_are_balanced(
    before: dict[str, Any], gone_for: float, balance: int | None
) -> None:
    resource = session(work(**{"finishedAt": ago(gone_for), **before}))
    assert returns(resource, POLICY, NOW)["returnBalance"] == balance


@pytest.mark.parametrize(
    ("before", "ended", "balance"),
    [
        pytest.param(None, record(0), 0, id="the first turn"),
        pytest.param(None, record(2), 2, id="quick answers in the first turn"),
        pytest.param(-1, record(0), -1, id="no answer"),
        pytest.param(-1, record(1), -1, id="an answer within the short wait"),
        pytest.param(9, record(5), 10, id="many"),
        pytest.param(4, None, 4, id="no record"),
        pytest.param(4, record(None), None, id="a worker of the version before"),
        pytest.param(4, record(-7), 4, id="nonsense"),
    ],
)
def test_answers_that_the_worker_waited_for_count_as_quick(
    before: int | None, ended: ExitRecord | None, balance: int | None
) -> None:
    assert balance_at_end(session(work(returnBalance=before)), ended) == balance


# Sessions over many turns


@dataclass
class Bill:
    """What a session's turns have cost beyond their work."""

    idle_seconds: float = 0
    resumes: int = 0
    missed: int = 0
    """Resumes that the usual wait would have saved."""


def played(gaps: Sequence[float], policy: EffectiveStatus, *, reports: bool = True) -> Bill:
    """Play a session whose user answers each turn after so many seconds. Work takes no time."""
    bill, resource, waited_for, at = Bill(), session(work()), 0, NOW
    for gap in gaps:
        waits = idle_seconds(resource, policy)
        bill.idle_seconds += min(gap, waits)
        if gap <= waits:
            waited_for += 1
            at += timedelta(seconds=gap)
            continue
        ended, offered = at + timedelta(seconds=waits), at + timedelta(seconds=gap)
        balance = balance_at_end(resource, record(waited_for if reports else None))
        quick = resource.status.work.quick_returns
        resource = session(work(finishedAt=ended, quickReturns=quick, returnBalance=balance))
        written = returns(resource, policy, offered)
        # As a merge patch: None removes a field.
        resource = session(work(**{name: value for name, value in written.items() if value is not None}))
        bill.resumes += 1
        bill.missed += gap <= USUAL
        waited_for, at = 0, offered
    return bill


QUICK = st.floats(0.1, USUAL)
NEAR = st.floats(USUAL, 2 * USUAL)
LATE = st.floats(2 * USUAL + 1, 600)
ANY = st.one_of(QUICK, NEAR, LATE)
Gaps = list[float]


def _mostly_quick(gaps: Gaps) -> bool:
    """Whether at no time more returns had been late than quick."""
    balance = itertools.accumulate(-1 if gap > USUAL else 1 for gap in gaps)
    return all(each >= 0 for each in balance)


# With more, the bound of the balance would let the newest returns count more than older ones.
@given(st.lists(ANY, max_size=20).filter(_mostly_quick))
def test_a_user_who_answers_soon_more_often_than_not_meets_no_further_resume(gaps: Gaps) -> None:
    assert played(gaps, POLICY) == played(gaps, FIXED)


@given(st.lists(QUICK, max_size=60))
def test_a_user_who_always_answers_soon_never_meets_a_resume(gaps: Gaps) -> None:
    assert played(gaps, POLICY).resumes == 0


@given(st.lists(LATE, min_size=1, max_size=60))
def test_a_user_who_always_answers_late_pays_for_one_usual_wait_and_then_for_short_ones(gaps: Gaps) -> None:
    bill = played(gaps, POLICY)
    assert bill.idle_seconds == USUAL + SHORT * (len(gaps) - 1)
    assert bill.resumes == played(gaps, FIXED).resumes == len(gaps)


@example([100, 1, 5, 100, 100, 1, 5])
@given(st.lists(ANY, max_size=60))
def test_whatever_the_habit_short_waits_cost_one_resume_for_three_late_returns_at_most(gaps: Gaps) -> None:
    late = sum(gap > 2 * USUAL for gap in gaps)
    assert played(gaps, POLICY).missed <= (late + 2) // 3


@given(st.lists(LATE, min_size=1, max_size=10), st.lists(QUICK.filter(lambda gap: gap > SHORT), min_size=1))
def test_a_habit_that_becomes_quick_costs_one_resume(late: Gaps, quick: Gaps) -> None:
    assert played([*late, *quick], POLICY).missed == 1


@given(st.lists(QUICK, max_size=60), st.lists(LATE, min_size=12, max_size=30))
def test_a_habit_that_becomes_slow_ends_the_long_waits_after_eleven_returns(quick: Gaps, late: Gaps) -> None:
    spent = played([*quick, *late], POLICY).idle_seconds - sum(quick)
    assert round(spent) <= 11 * USUAL + SHORT * (len(late) - 11)


@given(st.lists(ANY, max_size=30))
def test_a_worker_that_reports_no_returns_waits_as_long_as_ever(gaps: Gaps) -> None:
    assert played(gaps, POLICY, reports=False) == played(gaps, FIXED)
