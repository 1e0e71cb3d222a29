"""Places for running sandboxes: who gets one, in which order, and what a refusal of E2B changes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from managed_session_operator.capacity import Capacity
from managed_session_operator.waiting_line import WaitingLine

from .clock import Clock
from .examples import NOW, ago

NAMES = [f"session-{number}" for number in range(8)]
names = st.sampled_from(NAMES)


class CapacityMachine(RuleBasedStateMachine):
    """Whatever is asked for, given back, refused and started, in whatever order and time."""

    @initialize(limit=st.integers(1, 5), percent=st.integers(0, 100))
    def begin(self, limit: int, percent: int) -> None:
        self.clock = Clock()
        self.capacity = Capacity(limit, percent, clock=self.clock)
        self.limit = limit
        self.claimed: set[str] = set()
        self.hinted: set[str] = set()
        self.running_anyway: set[str] = set()

    def _given(self, name: str, *, announced: bool) -> None:
        if name not in self.claimed | self.hinted:
            (self.hinted if announced else self.claimed).add(name)
        elif not announced:
            self.hinted.discard(name)
            self.claimed.add(name)

    def _gone(self, name: str) -> None:
        for held in (self.claimed, self.hinted, self.running_anyway):
            held.discard(name)

    @rule(name=names, age=st.integers(0, 100), announced=st.booleans())
    def ask(self, name: str, age: int, announced: bool) -> None:
        held = name in self.claimed | self.hinted
        room = self.capacity.used < self.limit
        got = self.capacity.ask(name, ago(age), announced=announced)
        assert got or not held, "a place that is held stays"
        assert held or room or not got, "no place beyond the limit"
        assert self.capacity.waits(name) != got
        if got:
            self._given(name, announced=announced)

    @rule(name=names)
    def hold(self, name: str) -> None:
        if name not in self.claimed | self.hinted:
            self.running_anyway.add(name)
        self.capacity.hold(name)
        self._given(name, announced=False)

    @rule(name=names, retry_after=st.none() | st.integers(1, 100))
    def refused(self, name: str, retry_after: int | None) -> None:
        if name in self.claimed | self.hinted:
            self.capacity.refused(name, NOW, retry_after=retry_after)
            self._gone(name)
            assert not self.capacity.holds(name)
            assert self.capacity.waits(name)

    @rule(name=names)
    def started(self, name: str) -> None:
        self.capacity.started(name)

    @rule(seconds=st.integers(1, 100))
    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(name=names)
    def release(self, name: str) -> None:
        self.capacity.release(name)
        self._gone(name)
        assert not self.capacity.waits(name)

    @rule()
    def clear(self) -> None:
        self.capacity.clear()
        for held in (self.claimed, self.hinted, self.running_anyway):
            held.clear()

    @invariant()
    def no_place_is_counted_twice_or_lost(self) -> None:
        if not hasattr(self, "capacity"):
            return
        held = self.claimed | self.hinted
        assert self.capacity.used == len(held)
        assert self.capacity.allowed <= self.limit
        for name in NAMES:
            assert self.capacity.holds(name) == (name in held)
            assert self.capacity.holds_for_claim(name) == (name in self.claimed)
            assert not (self.capacity.holds(name) and self.capacity.waits(name))

    @invariant()
    def the_limit_is_passed_only_by_what_ran_already(self) -> None:
        if hasattr(self, "capacity"):
            assert self.capacity.used - len(self.running_anyway) <= self.limit


TestCapacity = CapacityMachine.TestCase


@given(
    ages=st.lists(st.integers(0, 1000), min_size=1, max_size=20),
    limit=st.integers(1, 4),
    order=st.randoms(use_true_random=False),
)
def test_places_are_given_in_the_order_of_the_works_age_whoever_asks_first(
    ages: list[int], limit: int, order: object
) -> None:
    capacity = Capacity(limit, 100)
    for number in range(limit):
        assert capacity.ask(f"early-{number}", ago(2000))
    waiting = {f"{number:02}": age for number, age in enumerate(ages)}
    asking = list(waiting)
    order.shuffle(asking)  # type: ignore[attr-defined]
    for name in asking:
        assert not capacity.ask(name, ago(waiting[name]))
    served: list[str] = []
    running = [f"early-{number}" for number in range(limit)]
    while len(served) < len(waiting):
        capacity.release(running.pop(0))
        order.shuffle(asking)  # type: ignore[attr-defined]
        left = [name for name in asking if name not in served]
        new = [name for name in left if capacity.ask(name, ago(waiting[name]))]
        assert len(new) == 1, "one place was given back"
        served += new
        running += new
    assert served == sorted(waiting, key=lambda name: (-waiting[name], name))


def test_who_is_next_is_woken_as_soon_as_a_place_is_given_back() -> None:
    woken: list[str] = []
    capacity = Capacity(1, 100, wake=woken.append)
    assert capacity.ask("first", ago(30))
    assert not capacity.ask("third", ago(10))
    assert not capacity.ask("second", ago(20))
    capacity.release("first")
    assert woken == ["second"]
    assert not capacity.ask("third", ago(10)), "a late one does not overtake"
    assert capacity.ask("second", ago(20))


def test_who_goes_away_leaves_the_line_and_the_next_is_woken() -> None:
    woken: list[str] = []
    capacity = Capacity(1, 100, wake=woken.append)
    assert capacity.ask("running", ago(30))
    assert not capacity.ask("deleted", ago(20))
    assert not capacity.ask("next", ago(10))
    capacity.release("running")
    capacity.release("deleted")
    assert woken[-1] == "next"
    assert capacity.ask("next", ago(10))


def test_a_later_offer_of_the_same_work_keeps_its_position() -> None:
    capacity = Capacity(1, 100)
    assert capacity.ask("running", ago(30))
    assert not capacity.ask("old", ago(20))
    assert not capacity.ask("new", ago(10))
    assert not capacity.ask("old", ago(1))
    capacity.release("running")
    assert not capacity.ask("new", ago(10))
    assert capacity.ask("old", ago(1))


def test_hints_leave_places_for_claimed_work() -> None:
    capacity = Capacity(5, 80)
    hints = [capacity.ask(f"hint-{number}", ago(10 - number), announced=True) for number in range(5)]
    assert hints == [True] * 4 + [False]
    assert capacity.ask("claim", NOW)
    assert not capacity.ask("one too many", NOW)


def test_claimed_work_goes_before_announced_work_however_old() -> None:
    capacity = Capacity(1, 100)
    assert capacity.ask("running", ago(30))
    assert not capacity.ask("announced", ago(20), announced=True)
    assert not capacity.ask("claimed", ago(10))
    capacity.release("running")
    assert not capacity.ask("announced", ago(20), announced=True)
    assert capacity.ask("claimed", ago(10))


def test_the_newest_hint_gives_its_place_to_claimed_work_that_waits() -> None:
    woken: list[str] = []
    capacity = Capacity(2, 100, wake=woken.append)
    assert capacity.ask("older", ago(20), announced=True)
    assert capacity.ask("newer", ago(10), announced=True)
    assert not capacity.displaced("newer"), "nobody needs it"
    assert not capacity.ask("claimed", ago(5))
    assert woken == ["newer"]
    assert (capacity.displaced("newer"), capacity.displaced("older")) == (True, False)
    capacity.release("newer")
    assert capacity.ask("claimed", ago(5))
    assert not capacity.displaced("older")


def test_a_hints_place_turns_into_its_claims() -> None:
    capacity = Capacity(1, 100)
    assert capacity.ask("session", NOW, announced=True)
    assert capacity.claimable([]) == 1
    assert capacity.ask("session", NOW)
    assert (capacity.used, capacity.claimable([])) == (1, 0)


def test_claimed_work_does_not_become_a_hint_again() -> None:
    capacity = Capacity(2, 50)
    assert capacity.ask("session", NOW)
    assert capacity.ask("session", NOW, announced=True)
    assert capacity.holds_for_claim("session")
    assert capacity.used == 1


def test_no_hints_at_all_are_a_possible_choice() -> None:
    assert not Capacity(20, 0).ask("session", NOW, announced=True)


def test_no_more_is_asked_of_the_queue_than_can_be_served() -> None:
    capacity = Capacity(3, 100)
    assert capacity.ask("running", NOW)
    assert capacity.claimable([]) == 2
    assert capacity.claimable(["offered", "running"]) == 1
    capacity.hold("found running")
    capacity.hold("found running too")
    assert not capacity.ask("waiting", NOW)
    assert capacity.claimable([]) == 0


def _refused_at(limit: int, allowed: int, clock: Clock) -> Capacity:
    """A capacity of which E2B has let `allowed` run and refused one more."""
    capacity = Capacity(limit, 100, clock=clock)
    for number in range(allowed):
        assert capacity.ask(f"running-{number}", ago(100))
        capacity.started(f"running-{number}")
    assert capacity.ask("refused", ago(50))
    capacity.refused("refused", ago(50))
    return capacity


def test_after_a_refusal_only_places_that_e2b_is_known_to_allow_are_used() -> None:
    clock = Clock()
    capacity = _refused_at(5, 2, clock)
    assert (capacity.allowed, capacity.free) == (2, 0)
    assert not capacity.ask("refused", ago(50))
    assert capacity.claimable([]) == 0
    capacity.release("running-0")
    assert not capacity.ask("later", ago(10))
    assert capacity.ask("refused", ago(50)), "it keeps its rank"


def test_after_the_pause_one_more_is_tried_and_all_again_once_e2b_allows_them() -> None:
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
def test_however_many_wait_a_limit_that_stays_is_tried_ever_more_seldom(waiting: int) -> None:
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


def test_nothing_is_sent_before_e2b_said_that_it_may() -> None:
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


def test_a_try_that_fails_otherwise_lets_another_one_try_later() -> None:
    clock = Clock()
    capacity = _refused_at(2, 1, clock)
    clock.now += capacity.wait_seconds()
    assert capacity.ask("refused", ago(50))
    capacity.release("refused")
    assert not capacity.ask("next", ago(10))
    clock.now += capacity.wait_seconds()
    assert capacity.ask("next", ago(10))


def test_a_lowered_limit_waits_until_enough_of_what_runs_has_ended() -> None:
    capacity = Capacity(1, 100)
    capacity.hold("running-0")
    capacity.hold("running-1")
    assert not capacity.ask("new", NOW)
    capacity.release("running-0")
    assert not capacity.ask("new", NOW)
    capacity.release("running-1")
    assert capacity.ask("new", NOW)


@given(asked=st.lists(st.tuples(names, st.integers(0, 100), st.booleans()), max_size=30), gone=st.sets(names))
def test_the_line_is_ordered_and_knows_who_is_in_it(
    asked: list[tuple[str, int, bool]], gone: set[str]
) -> None:
    line = WaitingLine()
    for name, age, announced in asked:
        line.join(name, NOW - timedelta(seconds=age), announced=announced)
    for name in gone:
        line.leave(name)
    there = {name for name, _, _ in asked} - gone
    order = line.first(100)
    assert sorted(order) == sorted(there)
    assert [line.ahead_of(name) for name in order] == list(range(len(order)))
    assert all((name in line) == (name in there) for name in NAMES)
    last = {name: announced for name, _, announced in asked}
    assert line.claimed == sum(1 for name in there if not last[name])
    assert all(not last[name] for name in order[: line.claimed])
