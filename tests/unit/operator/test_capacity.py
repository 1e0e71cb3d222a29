"""Places for running sandboxes."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from managed_session_operator.capacity import Capacity

names = st.sampled_from([f"session-{number}" for number in range(8)])


class CapacityMachine(RuleBasedStateMachine):
    """Whatever is taken and given back in whatever order, the books agree with a plain model."""

    @initialize(limit=st.integers(1, 5), percent=st.integers(0, 100))
    def begin(self, limit: int, percent: int) -> None:
        self.capacity = Capacity(limit, percent)
        self.limit, self.hints = limit, limit * percent // 100
        self.claimed: set[str] = set()
        self.hinted: set[str] = set()
        self.forced: set[str] = set()

    @rule(name=names)
    def claim(self, name: str) -> None:
        held = name in self.claimed | self.hinted
        free = len(self.claimed | self.hinted) < self.limit
        assert self.capacity.take_for_claim(name) == (held or free)
        if held or free:
            self.hinted.discard(name)
            self.claimed.add(name)

    @rule(name=names)
    def claim_what_runs_already(self, name: str) -> None:
        if name not in self.claimed | self.hinted:
            self.forced.add(name)
        assert self.capacity.take_for_claim(name, force=True)
        self.hinted.discard(name)
        self.claimed.add(name)

    @rule(name=names)
    def hint(self, name: str) -> None:
        held = self.claimed | self.hinted
        allowed = name in held or len(held) < min(self.limit, self.hints)
        assert self.capacity.take_for_hint(name) == allowed
        if allowed and name not in held:
            self.hinted.add(name)

    @rule(name=names)
    def release(self, name: str) -> None:
        self.capacity.release(name)
        self.claimed.discard(name)
        self.hinted.discard(name)
        self.forced.discard(name)

    @rule()
    def clear(self) -> None:
        self.capacity.clear()
        self.claimed.clear()
        self.hinted.clear()
        self.forced.clear()

    @invariant()
    def no_place_is_counted_twice_or_lost(self) -> None:
        if not hasattr(self, "capacity"):
            return
        held = self.claimed | self.hinted
        assert self.capacity.used == len(held)
        assert self.capacity.free == max(0, self.limit - len(held))
        assert self.capacity.claimable == max(0, self.limit - len(self.claimed))
        for number in range(8):
            name = f"session-{number}"
            assert self.capacity.holds(name) == (name in held)
            assert self.capacity.holds_for_claim(name) == (name in self.claimed)

    @invariant()
    def the_limit_is_passed_by_force_only(self) -> None:
        if hasattr(self, "capacity"):
            assert self.capacity.used - len(self.forced) <= self.limit


TestCapacity = CapacityMachine.TestCase


def test_hints_leave_places_for_claimed_work() -> None:
    capacity = Capacity(5, 80)
    assert [capacity.take_for_hint(f"hint-{number}") for number in range(5)] == [True] * 4 + [False]
    assert capacity.take_for_claim("claim")
    assert not capacity.take_for_claim("one too many")


def test_a_hints_place_turns_into_its_claims() -> None:
    capacity = Capacity(1, 100)
    assert capacity.take_for_hint("session")
    assert capacity.claimable == 1
    assert capacity.take_for_claim("session")
    assert (capacity.used, capacity.claimable) == (1, 0)


def test_claimed_work_does_not_become_a_hint_again() -> None:
    capacity = Capacity(2, 50)
    assert capacity.take_for_claim("session")
    assert capacity.take_for_hint("session")
    assert capacity.holds_for_claim("session")
    assert capacity.used == 1


def test_no_hints_at_all_are_a_possible_choice() -> None:
    assert not Capacity(20, 0).take_for_hint("session")
