"""Slots for running sandboxes: who gets one, and in which order."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.capacity.wait_queue import WaitQueue

from .clock import Clock
from .examples import NOW, ago

NAMES = [f"session-{number}" for number in range(8)]
names = st.sampled_from(NAMES)


class CapacityMachine(RuleBasedStateMachine):
    """Requests, releases, refusals and starts, in any order and at any time."""

    @initialize(limit=st.integers(1, 5), percent=st.integers(0, 100))
    def begin(self, limit: int, percent: int) -> None:
        self.clock = Clock()
        self.capacity = Capacity(limit, percent, clock=self.clock)
        self.limit = limit
        self.claimed: set[str] = set()
        self.with_announced_run: set[str] = set()
        self.running_anyway: set[str] = set()

    def _given(self, name: str, *, announced: bool) -> None:
        if name not in self.claimed | self.with_announced_run:
            (self.with_announced_run if announced else self.claimed).add(name)
        elif not announced:
            self.with_announced_run.discard(name)
            self.claimed.add(name)

    def _gone(self, name: str) -> None:
        for held in (self.claimed, self.with_announced_run, self.running_anyway):
            held.discard(name)

    @rule(name=names, age=st.integers(0, 100), announced=st.booleans())
    def ask(self, name: str, age: int, announced: bool) -> None:
        held = name in self.claimed | self.with_announced_run
        room = self.capacity.used < self.limit
        got = self.capacity.ask(name, ago(age), announced=announced)
        assert got or not held, "a slot that is held stays"
        assert held or room or not got, "no slot beyond the limit"
        assert self.capacity.waits(name) != got
        if got:
            self._given(name, announced=announced)

    @rule(name=names)
    def hold(self, name: str) -> None:
        if name not in self.claimed | self.with_announced_run:
            self.running_anyway.add(name)
        self.capacity.hold(name)
        self._given(name, announced=False)

    @rule(name=names, retry_after=st.none() | st.integers(1, 100))
    def refused(self, name: str, retry_after: int | None) -> None:
        if name in self.claimed | self.with_announced_run:
            self.capacity.refused(name, NOW, retry_after=retry_after)
            self._gone(name)
            assert not self.capacity.holds(name)
            assert self.capacity.waits(name)

    @rule(name=names, retry_after=st.none() | st.integers(1, 100))
    def rate_limited(self, name: str, retry_after: int | None) -> None:
        if name in self.claimed | self.with_announced_run:
            allowed = self.capacity.allowed
            self.capacity.rate_limited(name, NOW, retry_after=retry_after)
            self._gone(name)
            assert self.capacity.waits(name)
            assert self.capacity.allowed == allowed
            assert not self.capacity.ask("newcomer", NOW)
            self.capacity.release("newcomer")

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
        for held in (self.claimed, self.with_announced_run, self.running_anyway):
            held.clear()

    @invariant()
    def no_slot_is_counted_twice_or_lost(self) -> None:
        if not hasattr(self, "capacity"):
            return
        held = self.claimed | self.with_announced_run
        assert self.capacity.used == len(held)
        assert self.capacity.allowed <= self.limit
        for name in NAMES:
            assert self.capacity.holds(name) == (name in held)
            assert self.capacity.holds_for_claim(name) == (name in self.claimed)
            assert not (self.capacity.holds(name) and self.capacity.waits(name))

    @invariant()
    def the_limit_is_exceeded_only_by_running_sandboxes(self) -> None:
        if hasattr(self, "capacity"):
            assert self.capacity.used - len(self.running_anyway) <= self.limit


TestCapacity = CapacityMachine.TestCase


@given(
    ages=st.lists(st.integers(0, 1000), min_size=1, max_size=20),
    limit=st.integers(1, 4),
    order=st.randoms(use_true_random=False),
)
def test_slots_go_to_the_oldest_work_first(ages: list[int], limit: int, order: object) -> None:
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
        assert len(new) == 1, "one slot was given back"
        served += new
        running += new
    assert served == sorted(waiting, key=lambda name: (-waiting[name], name))


def test_the_next_session_is_woken_as_soon_as_a_slot_is_released() -> None:
    woken: list[str] = []
    capacity = Capacity(1, 100, wake=woken.append)
    assert capacity.ask("first", ago(30))
    assert not capacity.ask("third", ago(10))
    assert not capacity.ask("second", ago(20))
    capacity.release("first")
    assert woken == ["second"]
    assert not capacity.ask("third", ago(10)), "a late one does not overtake"
    assert capacity.ask("second", ago(20))


def test_a_session_that_leaves_the_wait_queue_wakes_the_next() -> None:
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


def test_announced_runs_leave_slots_for_claimed_work() -> None:
    capacity = Capacity(5, 80)
    announced_runs = [
        capacity.ask(f"announced-{number}", ago(10 - number), announced=True) for number in range(5)
    ]
    assert announced_runs == [True] * 4 + [False]
    assert capacity.ask("claim", NOW)
    assert not capacity.ask("one too many", NOW)


def test_claimed_work_comes_before_even_older_announced_work() -> None:
    capacity = Capacity(1, 100)
    assert capacity.ask("running", ago(30))
    assert not capacity.ask("announced", ago(20), announced=True)
    assert not capacity.ask("claimed", ago(10))
    capacity.release("running")
    assert not capacity.ask("announced", ago(20), announced=True)
    assert capacity.ask("claimed", ago(10))


def test_the_newest_announced_run_gives_its_slot_to_claimed_work_that_waits() -> None:
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


def test_a_slot_of_an_announced_run_becomes_that_of_its_claim() -> None:
    capacity = Capacity(1, 100)
    assert capacity.ask("session", NOW, announced=True)
    assert capacity.claimable([]) == 1
    assert capacity.ask("session", NOW)
    assert (capacity.used, capacity.claimable([])) == (1, 0)


def test_claimed_work_does_not_become_an_announced_run_again() -> None:
    capacity = Capacity(2, 50)
    assert capacity.ask("session", NOW)
    assert capacity.ask("session", NOW, announced=True)
    assert capacity.holds_for_claim("session")
    assert capacity.used == 1


def test_announced_runs_may_get_no_slots_at_all() -> None:
    assert not Capacity(20, 0).ask("session", NOW, announced=True)


def test_the_queue_is_polled_only_for_what_can_be_served() -> None:
    capacity = Capacity(3, 100)
    assert capacity.ask("running", NOW)
    assert capacity.claimable([]) == 2
    assert capacity.claimable(["offered", "running"]) == 1
    capacity.hold("found running")
    capacity.hold("found running too")
    assert not capacity.ask("waiting", NOW)
    assert capacity.claimable([]) == 0


def test_a_lowered_limit_waits_until_enough_sandboxes_have_ended() -> None:
    capacity = Capacity(1, 100)
    capacity.hold("running-0")
    capacity.hold("running-1")
    assert not capacity.ask("new", NOW)
    capacity.release("running-0")
    assert not capacity.ask("new", NOW)
    capacity.release("running-1")
    assert capacity.ask("new", NOW)


@given(asked=st.lists(st.tuples(names, st.integers(0, 100), st.booleans()), max_size=30), gone=st.sets(names))
def test_the_wait_queue_is_ordered_and_knows_its_members(
    asked: list[tuple[str, int, bool]], gone: set[str]
) -> None:
    queue = WaitQueue()
    for name, age, announced in asked:
        queue.join(name, NOW - timedelta(seconds=age), announced=announced)
    for name in gone:
        queue.leave(name)
    there = {name for name, _, _ in asked} - gone
    order = queue.first(100)
    assert sorted(order) == sorted(there)
    assert [queue.ahead_of(name) for name in order] == list(range(len(order)))
    assert all((name in queue) == (name in there) for name in NAMES)
    last = {name: announced for name, _, announced in asked}
    assert queue.claimed == sum(1 for name in there if not last[name])
    assert all(not last[name] for name in order[: queue.claimed])
