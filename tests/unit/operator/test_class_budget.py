"""A class's budget of a day: what counts, who is held back, and what a later leader knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from managed_session_api.session_class import ClassActivity
from managed_session_api.times import to_wire
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.domain import class_budget
from managed_session_operator.domain.class_budget import ClassLedger, ClassUsage
from managed_session_operator.domain.class_choice import Choice
from managed_session_operator.domain.days import until_tomorrow
from managed_session_operator.domain.decide import decide
from managed_session_operator.domain.status_patch import status_patch
from managed_session_operator.domain.step import Decision, Step

from .contexts import context
from .examples import (
    CLAIM,
    NOW,
    PAUSED,
    RUNNING,
    ago,
    announced_run,
    class_body,
    observation,
    offer,
    session,
    session_class,
    summary,
    work,
)

DAY = "2026-11-23"
RECORDED = {"class": {"name": "gold", "uid": "uid-gold", "generation": 7}}


def served(seconds: int | None = None, day: str = DAY, **status: Any) -> ManagedSession:
    counted = {"activeToday": {"day": day, "seconds": seconds}} if seconds is not None else {}
    return session({**RECORDED, **counted, **status})


def test_the_end_of_a_claim_adds_the_time_since_its_acknowledgement() -> None:
    resource = served(100, work=work(acknowledged=30, heartbeat=20))
    patch = status_patch(resource, NOW, work={"finishedAt": NOW, "exitReason": "Idle"})
    assert patch["activeToday"] == {"day": DAY, "seconds": 130}
    superseded = status_patch(resource, NOW, work={"claim": "a newer one"})
    assert superseded["activeToday"] == {"day": DAY, "seconds": 130}


@pytest.mark.parametrize(
    ("resource", "fields"),
    [
        (session({"work": work(acknowledged=30)}), {"work": {"finishedAt": NOW}}),
        (served(work=work(acknowledged=30)), {"work": {"awaitingUserSince": NOW}}),
        (served(work=work(acknowledged=30)), {"work": {"claim": CLAIM}}),
        (served(work=work()), {"work": {"finishedAt": NOW}}),
        (served(work=work(acknowledged=30, finished=20)), {"work": {"claim": "next"}}),
    ],
    ids=["no class", "goes on", "same claim", "not acknowledged", "was over"],
)
def test_nothing_is_counted_without_a_class_or_before_an_end(
    resource: ManagedSession, fields: dict[str, Any]
) -> None:
    assert "activeToday" not in status_patch(resource, NOW, **fields)


def test_only_the_part_of_today_counts() -> None:
    long = served(5000, day="2026-11-22", work=work(acknowledged=86_400))
    since_midnight = (NOW - datetime(2026, 11, 23, tzinfo=UTC)).total_seconds()
    patch = status_patch(long, NOW, work={"finishedAt": NOW})
    assert patch["activeToday"] == {"day": DAY, "seconds": round(since_midnight)}
    assert until_tomorrow(NOW) == pytest.approx(86_400 - since_midnight)


def test_another_class_starts_from_zero() -> None:
    resource = served(100, work=work(acknowledged=30))
    other: dict[str, Any] = {"class": {"name": "silver", "uid": "uid-silver", "generation": 1}}
    assert status_patch(resource, NOW, **other, work={"claim": "next"})["activeToday"] is None
    same: dict[str, Any] = {"class": {"name": "gold", "uid": "uid-gold", "generation": 8}}
    assert status_patch(resource, NOW, **same, work={"claim": "next"})["activeToday"]["seconds"] == 130


def test_use_is_counted_by_class_with_the_running_claims() -> None:
    status = served(100, sandbox=RUNNING, work=work(acknowledged=30)).status.to_json()
    resting = summary({**RECORDED, "sandbox": PAUSED}, uid="uid-2", name="sesn-2")
    found = class_budget.usage_by_class([summary(status), resting, summary()], {"gold": 1}, NOW)
    gold = found["gold"]
    assert (gold.sessions, gold.active_sandboxes, gold.waiting) == (2, 1, 1)
    assert gold.seconds == {"uid-1": 130.0}
    assert set(found) == {"gold"}


def test_a_new_session_that_waits_for_its_first_slot_is_counted_in_the_class_that_will_serve_it() -> None:
    known = context(capacity=Capacity(1, 80))
    known.classes.cache.observe(class_body())
    known.share_slots()
    new = session()
    assert known.capacity.ask("running", ago(9))
    assert not known.capacity.ask(new.metadata.name, ago(5), class_name=known.class_name(new))
    known.count_classes()
    assert known.classes.usage["gold"].waiting == 1


def test_sessions_that_are_gone_still_count_today() -> None:
    ledger, gold = ClassLedger(), session_class()
    assert ledger.account(gold, ClassUsage(seconds={"a": 50, "b": 20}), NOW).seconds == 70
    after = ledger.account(gold, ClassUsage(seconds={"b": 30}), NOW)
    assert (after.seconds, after.departed_seconds) == (80, 50)
    tomorrow = ledger.account(gold, ClassUsage(seconds={"b": 5}), NOW + timedelta(days=1))
    assert (tomorrow.seconds, tomorrow.departed_seconds) == (5, 0)


def test_a_later_leader_continues_from_what_the_class_records() -> None:
    recorded = ClassActivity(day=DAY, seconds=80, departed_seconds=50).to_json()
    gold = session_class(status={"activeToday": recorded})
    assert ClassLedger().account(gold, ClassUsage(seconds={"b": 30}), NOW).seconds == 80
    assert ClassLedger().account(gold, ClassUsage(seconds={"b": 90}), NOW).seconds == 140
    # A session went while nobody led.
    assert ClassLedger().account(gold, ClassUsage(), NOW).seconds == 80
    yesterday = session_class(status={"activeToday": {**recorded, "day": "2026-11-22"}})
    assert ClassLedger().account(yesterday, ClassUsage(), NOW).seconds == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-50, 50)), max_size=30), st.integers(0, 30))
def test_the_total_of_a_day_never_falls_whoever_leads(
    steps: list[tuple[str, int]], fail_over_at: int
) -> None:
    ledger, present, last = ClassLedger(), dict[str, float](), 0
    status: dict[str, Any] = {}
    for number, (name, change) in enumerate(steps):
        if change < 0:
            present.pop(name, None)
        else:
            present[name] = present.get(name, 0) + change
        if number == fail_over_at:
            ledger = ClassLedger()
        activity = ledger.account(session_class(status=status), ClassUsage(seconds=present), NOW)
        status = {"activeToday": activity.to_json()}
        assert activity.seconds >= last
        last = activity.seconds


GOLD = session_class(spec={"limits": {"maxActiveSecondsPerDay": 60}})
SPENT = class_budget.spent_message(GOLD)


def seen(**known: Any) -> Any:
    return observation(
        choice=Choice(GOLD),
        budget_spent=SPENT,
        budget_again_after=99.0,
        message_known=True,
        **known,
    )


HELD = Decision(Step.WAIT, Reason.BUDGET_REACHED, SPENT, 99.0)


def test_a_session_with_work_waits_for_the_next_day_or_a_raised_budget() -> None:
    assert decide(served(), seen(offer=offer())) == HELD
    assert decide(served(lastEvent=announced_run()), seen()) == HELD
    assert decide(served(sandbox=RUNNING), seen(offer=offer())) == Decision(Step.PAUSE)
    assert "maxActiveSecondsPerDay" in SPENT
    assert "60 seconds" in SPENT


def test_a_session_that_was_held_back_stays_so_without_its_offer() -> None:
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "BudgetReached",
        "message": SPENT,
        "lastTransitionTime": to_wire(ago(1)),
    }
    assert decide(served(conditions=[ready]), seen()) == HELD
    assert decide(served(conditions=[ready]), observation()).reason is Reason.IDLE


def test_an_idle_session_and_a_running_turn_are_left_alone() -> None:
    assert decide(served(), seen()).reason is Reason.IDLE
    running = served(work=work(acknowledged=30), sandbox=RUNNING)
    assert decide(running, seen()).step is Step.PROVISION
