"""When a session that waits for its user is paused, looked at, and resumed; what it reports meanwhile."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from managed_session_api.times import to_wire
from managed_session_operator.domain import class_budget, user_wait
from managed_session_operator.domain.decide import decide
from managed_session_operator.domain.paused_wait import check_at, pause_at
from managed_session_operator.domain.resource_summary import active_since
from managed_session_operator.domain.session_cache import SessionCache
from managed_session_operator.domain.step import Step
from managed_session_operator.domain.work_item import WorkItem, WorkList
from managed_session_operator.resync.lost_leases import LostLeases

from .examples import (
    CLAIM,
    LOST,
    NOW,
    PAUSED,
    RUNNING,
    SESSION,
    ago,
    announced_run,
    observation,
    offer,
    policy,
    run,
    session,
    work,
)

ANSWERS = ("user.tool_confirmation for bash (sevt_1)",)
RESYNC = timedelta(seconds=30)


def waiting(since: float = 100, *, paused: float | None = None, **status: Any) -> ManagedSession:
    """Return a session that waits for its user, in a running or a paused sandbox."""
    served = {
        **work(acknowledged=200, heartbeat=190),
        "awaitingUserSince": to_wire(ago(since)),
        "awaitedAnswers": list(ANSWERS),
    }
    if paused is not None:
        served["waitPausedAt"] = to_wire(ago(paused))
    return session({"work": served, "sandbox": PAUSED if paused is not None else RUNNING, **status})


LISTENED = {"connected": True, "run": run(heartbeat=True, awaiting=ANSWERS), "extend_at": ago(-99)}


@pytest.mark.parametrize(
    ("since", "seconds", "known", "expected"),
    [
        (61, 60, {}, ago(1)),
        (59, 60, {}, ago(-1)),
        (61, 0, {}, None),
        (61, 60, {"late": True}, None),
        (61, 60, {"awaiting": ()}, None),
    ],
)
def test_sandbox_is_paused_after_its_time(since: float, seconds: int, known: Any, expected: Any) -> None:
    listened = run(**{"heartbeat": True, "awaiting": ANSWERS, **known})
    chosen = policy(pause_while_waiting_seconds=seconds)
    at = pause_at(waiting(since), SessionCache(), chosen, listened)
    assert at == expected
    decision = decide(waiting(since), observation(**{**LISTENED, "run": listened}, wait_pause_at=at))
    assert (decision.step is Step.PAUSE_WAIT) == (expected is not None and expected <= NOW)


def test_sandbox_that_could_not_be_paused_is_tried_again_later() -> None:
    cache = SessionCache(wait_pause_not_before=ago(-5))
    assert pause_at(waiting(), cache, policy(), LISTENED["run"]) == ago(-5)  # type: ignore[arg-type]


def test_turn_that_waits_is_not_checked_for_its_length() -> None:
    assert decide(waiting(), observation(**LISTENED, turn_check_at=ago(1))).step is Step.WAIT


def test_answer_is_looked_for_at_once_then_ever_less_often_and_at_each_event() -> None:
    cache = SessionCache()
    resource = waiting(100, paused=40)
    cache.note_wait(resource, ago(40))
    assert check_at(resource, cache, 1, RESYNC) == ago(40)
    cache.wait_checked = (NOW, None)
    assert check_at(resource, cache, 1, RESYNC) == ago(-10)
    assert check_at(resource, cache, 500, RESYNC) == ago(-250), "all together do not ask too often"
    old = waiting(90_000, paused=89_000)
    assert check_at(old, cache, 1, RESYNC) == ago(-300)
    told = waiting(90_000, paused=89_000, lastEvent=announced_run())
    assert check_at(told, cache, 1, RESYNC) == NOW
    cache.wait_checked = (NOW, announced_run()["id"])
    assert check_at(told, cache, 1, RESYNC) == ago(-300)
    assert check_at(waiting(), cache, 1, RESYNC) is None


def test_next_leader_spreads_its_first_look_at_many_sessions() -> None:
    cache, resource = SessionCache(), waiting(9000, paused=8000)
    cache.note_wait(resource, NOW)
    first = check_at(resource, cache, 1000, RESYNC)
    assert first is not None
    assert NOW <= first <= NOW + timedelta(seconds=500)


@pytest.mark.parametrize(
    ("known", "step"),
    [
        ({"answer_check_at": ago(1)}, Step.CHECK_ANSWER),
        ({"answer_check_at": ago(-5)}, Step.WAIT),
        ({"answer_check_at": ago(-5), "offer": offer()}, Step.WAIT),
        ({"answer_check_at": ago(-5), "connected": True}, Step.PAUSE_WAIT),
        ({"answered": True}, Step.RESUME_WAIT),
        ({"answered": True, "connected": True}, Step.RESUME_WAIT),
        ({"answered": True, "offer": offer()}, Step.CLAIM),
        ({"answered": True, "offer": offer(500)}, Step.RESUME_WAIT),
        ({"missing": True}, Step.RECORD_VANISHED),
        ({"suspended_by": "gold"}, Step.WAIT),
        ({"end_check_due": True}, Step.CONFIRM_END),
    ],
)
def test_what_is_done_while_the_sandbox_is_paused(known: Any, step: Step) -> None:
    assert decide(waiting(paused=40), observation(**known)).step is step


def test_wait_is_reported_with_what_it_needs_and_costs() -> None:
    decision = decide(waiting(paused=40), observation(answer_check_at=ago(-5)))
    assert (decision.reason, decision.again_after) == (Reason.AWAITING_USER, 5.0)
    assert to_wire(ago(100)) in decision.message
    assert ANSWERS[0] in decision.message
    assert "paused and holds no slot" in decision.message
    assert "keeps its slot" in (user_wait.message(waiting()) or "")
    assert "a new sandbox" in (user_wait.message(waiting(paused=40, sandbox=LOST)) or "")
    assert user_wait.message(session()) is None


def test_waits_are_counted_by_age() -> None:
    times = [ago(each) for each in (1, 59, 61, 3_601, 86_401, 10**6)]
    assert user_wait.by_age(times, NOW) == {"1m": 2, "10m": 1, "1h": 0, "1d": 1, "more": 2}


def test_paused_wait_is_no_activity_of_the_class() -> None:
    gold: dict[str, Any] = {"class": {"name": "gold", "uid": "uid-gold", "generation": 1}}
    running = waiting(**gold)
    fields = {"work": {"waitPausedAt": NOW}}
    counted = class_budget.counted(running, fields, NOW)
    assert counted["activeToday"]["seconds"] == 200
    assert active_since(waiting(paused=40)) is None
    resumed = waiting()
    resumed.status.work.wait_resumed_at = ago(7)
    assert active_since(resumed) == ago(7)


def test_answer_is_forgotten_with_the_wait() -> None:
    cache = SessionCache(wait_answered=CLAIM, wait_checked=(NOW, None))
    cache.note_wait(waiting(), NOW)
    assert (cache.wait_answered, cache.wait_checked) == (None, None)


def test_frozen_worker_without_its_lease_is_not_taken_for_one_that_hangs() -> None:
    leases, queued = LostLeases(), WorkItem(SESSION, SESSION, "queued", ago(50))
    for seconds in (20, 10):
        assert not leases.found([waiting(paused=60)], WorkList([queued], ago(seconds)))
    for seconds in (8, 6):
        found = leases.found([waiting()], WorkList([queued], ago(seconds)))
    assert len(found) == 1
