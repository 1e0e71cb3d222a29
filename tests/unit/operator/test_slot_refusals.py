"""Slots after E2B has refused a sandbox, for its limit of running sandboxes or for its rate limit."""

from __future__ import annotations

import pytest
from managed_session_operator.capacity.slots import Capacity

from .clock import Clock
from .examples import ago


def _refused_at(limit: int, allowed: int, clock: Clock) -> Capacity:
    """Return a capacity of which E2B has let `allowed` run, and has refused one more."""
    capacity = Capacity(limit, 100, clock=clock)
    for number in range(allowed):
        assert capacity.ask(f"running-{number}", ago(100))
        capacity.started(f"running-{number}")
    assert capacity.ask("refused", ago(50))
    capacity.refused("refused", ago(50))
    return capacity


def test_after_a_refusal_only_slots_that_e2b_is_known_to_allow_are_used() -> None:
    clock = Clock()
    capacity = _refused_at(5, 2, clock)
    assert (capacity.allowed, capacity.free) == (2, 0)
    assert not capacity.ask("refused", ago(50))
    assert capacity.claimable([]) == 0
    capacity.release("running-0")
    assert not capacity.ask("later", ago(10))
    assert capacity.ask("refused", ago(50)), "it keeps its rank"


def test_after_a_pause_one_more_is_tried_and_all_once_e2b_allows_them() -> None:
    clock = Clock()
    capacity = _refused_at(5, 2, clock)
    assert not capacity.ask("later", ago(10))
    clock.now += capacity.wait_seconds()
    assert not capacity.ask("later", ago(10)), "the oldest is the one to try"
    assert capacity.ask("refused", ago(50))
    assert not capacity.ask("later", ago(10)), "one at a time"
    capacity.started("refused")
    assert capacity.allowed == 3
    assert capacity.ask("later", ago(10))
    capacity.started("later")
    assert capacity.allowed == 4


@pytest.mark.parametrize("waiting", [1, 8])
def test_a_lasting_limit_is_tried_less_and_less_often_however_many_wait(waiting: int) -> None:
    clock = Clock()
    capacity = _refused_at(20, 0, clock)
    tried = 0
    while clock.now < 1000 + 600:
        for number in range(waiting):
            name = "refused" if number == 0 else f"waiting-{number}"
            if capacity.ask(name, ago(50 - number)):
                tried += 1
                capacity.refused(name, ago(50 - number))
        clock.now += 1
    assert tried <= 4 + 10, "four times in the first minute, then once a minute"
    assert tried >= 10


def test_nothing_is_sent_before_the_time_that_e2b_gives() -> None:
    clock = Clock()
    capacity = Capacity(5, 100, clock=clock)
    assert capacity.ask("running", ago(60))
    assert capacity.ask("refused", ago(50))
    capacity.refused("refused", ago(50), retry_after=120)
    capacity.release("running")
    clock.now += 119
    assert not capacity.ask("refused", ago(50))
    assert capacity.claimable([]) == 0
    clock.now += 2
    assert capacity.ask("refused", ago(50))


def _rate_limited(clock: Clock, retry_after: float | None = None) -> Capacity:
    """Return a capacity with one running sandbox, whose next one E2B has refused for its rate limit."""
    capacity = Capacity(5, 100, clock=clock)
    for name in ("running", "limited"):
        assert capacity.ask(name, ago(50))
    capacity.started("running")
    capacity.rate_limited("limited", ago(50), retry_after=retry_after)
    return capacity


def test_a_rate_limit_is_waited_out_and_does_not_change_the_slots() -> None:
    clock = Clock()
    capacity = _rate_limited(clock)
    assert (capacity.allowed, capacity.is_rate_limited) == (5, True)
    assert capacity.waits("limited")
    assert not capacity.ask("limited", ago(50))
    assert not capacity.ask("later", ago(10)), "nobody else tries meanwhile"
    assert capacity.claimable([]) == 0, "and no more is taken from the queue"
    clock.now += capacity.wait_seconds()
    assert not capacity.is_rate_limited
    assert capacity.ask("limited", ago(50))
    assert capacity.ask("later", ago(10)), "not one at a time: all slots exist"


def test_a_lasting_rate_limit_is_tried_less_and_less_often_until_something_starts() -> None:
    clock = Clock()
    capacity = _rate_limited(clock)
    pauses = []
    for _ in range(9):
        pauses.append(capacity.wait_seconds())
        clock.now += capacity.wait_seconds()
        assert capacity.ask("limited", ago(50))
        capacity.rate_limited("limited", ago(50))
    assert pauses == sorted(pauses)
    assert pauses[0] < 2
    assert pauses[-1] == 60
    clock.now += capacity.wait_seconds()
    assert capacity.ask("limited", ago(50))
    capacity.started("limited")
    capacity.rate_limited("limited", ago(50))
    assert capacity.wait_seconds() == pauses[0]


def test_concurrent_calls_count_as_one_rate_limit() -> None:
    clock = Clock()
    capacity = Capacity(5, 100, clock=clock)
    names_ = [f"limited-{number}" for number in range(5)]
    for name in names_:
        assert capacity.ask(name, ago(50))
    for name in names_:
        capacity.rate_limited(name, ago(50))
    assert capacity.wait_seconds() < 2


def test_nothing_starts_before_the_time_that_a_rate_limit_gives() -> None:
    clock = Clock()
    capacity = _rate_limited(clock, retry_after=30)
    clock.now += 29
    assert not capacity.ask("limited", ago(50))
    clock.now += 2
    assert capacity.ask("limited", ago(50))


def test_a_rate_limit_says_nothing_about_how_many_may_run() -> None:
    """If the attempt at the next slot is refused for another reason, the next session tries it again."""
    clock = Clock()
    capacity = _refused_at(5, 2, clock)
    clock.now += capacity.wait_seconds()
    assert capacity.ask("refused", ago(50))
    capacity.rate_limited("refused", ago(50))
    assert capacity.allowed == 2
    clock.now += capacity.wait_seconds()
    assert capacity.ask("refused", ago(50))
    capacity.started("refused")
    assert capacity.allowed == 3


def test_an_attempt_that_fails_otherwise_lets_another_session_try() -> None:
    clock = Clock()
    capacity = _refused_at(2, 1, clock)
    clock.now += capacity.wait_seconds()
    assert capacity.ask("refused", ago(50))
    capacity.release("refused")
    assert not capacity.ask("next", ago(10))
    clock.now += capacity.wait_seconds()
    assert capacity.ask("next", ago(10))
