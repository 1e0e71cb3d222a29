"""Classes that share slots: each gets its part, no part is wasted, and a flood delays nobody else."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_session_operator.capacity.class_shares import (
    ClassShare,
    guarantees_within,
    why_guarantee_reduced,
)
from managed_session_operator.capacity.slots import Capacity

from .clock import Clock
from .examples import NOW, ago
from .sharing import CLASSES, Scenario, scenarios, violated

FLOOD = 500


@settings(max_examples=400, deadline=None)
@given(scenario=scenarios)
def test_each_slot_is_given_by_the_rules(scenario: Scenario) -> None:
    assert violated(Capacity, scenario) is None


@settings(deadline=None)
@given(
    slots=st.integers(1, 12),
    weights=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    ends=st.lists(st.integers(0, 1000), max_size=40),
)
def test_classes_that_wait_the_whole_time_use_slots_by_their_weights(
    slots: int, weights: list[int], ends: list[int]
) -> None:
    """Between any two, slots in use per weight differ by less than one slot; so does their mean over time."""
    names = [f"class-{number}" for number in range(len(weights))]
    capacity = Capacity(slots, 100)
    capacity.share_slots(dict(zip(names, map(ClassShare, weights), strict=True)))
    running = [f"early-{number}" for number in range(slots)]
    assert all(capacity.ask(name, ago(2000), class_name="early") for name in running)
    queued = {name: [f"{name}/{number:03}" for number in range(slots + len(ends))] for name in names}
    for sessions in queued.values():
        for number, session in enumerate(sessions):
            assert not capacity.ask(session, ago(1000 - number), class_name=session.partition("/")[0])
    slot_time = dict.fromkeys(names, 0)
    for elapsed, end in enumerate([0] * slots + ends, 1):
        capacity.release(running.pop(end % len(running)))
        (served,) = [name for name in names if capacity.ask(queued[name][0], NOW, class_name=name)]
        running.append(queued[served].pop(0))
        for name in names:
            slot_time[name] += capacity.used_by_class.get(name, 0)
        for one, weight in zip(names, weights, strict=True):
            for other, other_weight in zip(names, weights, strict=True):
                used, other_used = (capacity.used_by_class.get(each, 0) for each in (one, other))
                assert Fraction(used - 1, weight) <= Fraction(other_used, other_weight) or one == other
                more = Fraction(slot_time[one], weight) - Fraction(slot_time[other], other_weight)
                assert more <= Fraction(elapsed, weight)


def _flooded(slots: int, **shares: ClassShare) -> Capacity:
    capacity = Capacity(slots, 80)
    capacity.share_slots({"flood": ClassShare(), "quiet": ClassShare(), **shares})
    for number in range(FLOOD):
        capacity.ask(f"flood-{number:03}", ago(1000 - number), class_name="flood")
    assert capacity.used == slots
    return capacity


@pytest.mark.parametrize("weight", [1, 100])
def test_the_next_free_slot_goes_to_the_first_session_of_a_quiet_class(weight: int) -> None:
    capacity = _flooded(20, flood=ClassShare(weight))
    assert not capacity.ask("quiet", NOW, class_name="quiet")
    capacity.release("flood-007")
    assert not capacity.ask("flood-020", ago(980), class_name="flood")
    assert capacity.ask("quiet", NOW, class_name="quiet")


def test_a_quiet_class_needs_no_class_of_its_own() -> None:
    capacity = _flooded(20)
    assert not capacity.ask("without a class", NOW)
    capacity.release("flood-007")
    assert capacity.ask("without a class", NOW)


def test_guaranteed_slots_are_lent_and_come_back_one_by_one() -> None:
    capacity = _flooded(6, quiet=ClassShare(guaranteed_slots=4), flood=ClassShare(weight=50))
    assert capacity.used_by_class == {"flood": 6}, "lent while nobody needs them"
    for number in range(5):
        assert not capacity.ask(f"quiet-{number}", ago(5 - number), class_name="quiet")
    for number in range(4):
        capacity.release(f"flood-00{number}")
        assert not capacity.ask(f"flood-{number + 6:03}", ago(994 - number), class_name="flood")
        assert capacity.ask(f"quiet-{number}", ago(5 - number), class_name="quiet")
    capacity.release("flood-004")
    assert not capacity.ask("quiet-4", ago(1), class_name="quiet"), "its weight gives it no more than that"
    assert capacity.used_by_class == {"flood": 1, "quiet": 4}


def test_a_full_class_blocks_nobody() -> None:
    capacity = Capacity(3, 80)
    capacity.share_slots({"small": ClassShare(max_active_sandboxes=1)})
    assert capacity.ask("small-0", ago(30), class_name="small")
    assert not capacity.ask("small-1", ago(20), class_name="small")
    assert (capacity.free, capacity.free_for("small"), capacity.maximum_reached("small")) == (2, 0, 1)
    assert capacity.ask("other", NOW)
    capacity.release("small-0")
    assert capacity.ask("small-1", ago(20), class_name="small")


def test_a_running_sandbox_keeps_its_slot_beyond_the_maximum_of_its_class() -> None:
    capacity = Capacity(3, 80)
    capacity.share_slots({"small": ClassShare(max_active_sandboxes=1)})
    capacity.hold("running-0", "small")
    capacity.hold("running-1", "small")
    assert capacity.used_by_class == {"small": 2}
    capacity.release("running-0")
    assert not capacity.ask("new", NOW, class_name="small")


def test_a_raised_maximum_wakes_those_that_wait_for_it() -> None:
    woken: list[str] = []
    capacity = Capacity(3, 80, wake=woken.append)
    capacity.share_slots({"small": ClassShare(max_active_sandboxes=1)})
    assert capacity.ask("first", ago(2), class_name="small")
    assert not capacity.ask("second", ago(1), class_name="small")
    woken.clear()
    capacity.share_slots({"small": ClassShare(max_active_sandboxes=2)})
    assert woken == ["second"]
    assert capacity.ask("second", ago(1), class_name="small")


def test_a_session_that_gets_another_class_when_it_is_woken_leaves_the_slot_to_the_next() -> None:
    woken: list[str] = []
    capacity = Capacity(2, 80, wake=woken.append)
    capacity.share_slots({"gold": ClassShare(), "small": ClassShare(max_active_sandboxes=1)})
    assert capacity.ask("small-0", ago(50), class_name="small")
    assert capacity.ask("gold-0", ago(40), class_name="gold")
    assert not capacity.ask("moves", ago(30))
    assert not capacity.ask("gold-1", ago(20), class_name="gold")
    woken.clear()
    capacity.release("gold-0")
    assert not capacity.ask("moves", ago(30), class_name="small")
    assert woken == ["moves", "gold-1"]


def test_a_session_that_takes_a_slot_of_another_class_leaves_that_of_its_former_class() -> None:
    woken: list[str] = []
    capacity = Capacity(3, 80, wake=woken.append)
    capacity.share_slots({"small": ClassShare(max_active_sandboxes=1)})
    assert capacity.ask("small-0", ago(50), class_name="small")
    assert not capacity.ask("moves", ago(40), class_name="small")
    assert not capacity.ask("small-1", ago(30), class_name="small")
    woken.clear()
    capacity.release("small-0")
    assert capacity.ask("moves", ago(40))
    assert woken == ["moves", "small-1"]


def test_a_lowered_maximum_takes_no_slots_of_announced_runs_unless_claimed_work_waits() -> None:
    capacity = Capacity(5, 100)
    capacity.share_slots({"small": ClassShare(max_active_sandboxes=3)})
    for age in (9, 8, 7):
        assert capacity.ask(f"announced-{age}", ago(age), announced=True, class_name="small")
    assert not capacity.ask("announced-6", ago(6), announced=True, class_name="small")
    capacity.share_slots({"small": ClassShare(max_active_sandboxes=1)})
    assert not any(capacity.displaced(f"announced-{age}") for age in (9, 8, 7))
    assert not capacity.ask("claimed", ago(1), class_name="small")
    assert all(capacity.displaced(f"announced-{age}") for age in (9, 8, 7))


def test_claimed_work_takes_the_slot_of_an_announced_run_of_its_full_class() -> None:
    capacity = Capacity(5, 100)
    capacity.share_slots({"small": ClassShare(max_active_sandboxes=1)})
    assert capacity.ask("elsewhere", ago(1), announced=True)
    assert capacity.ask("announced", ago(3), announced=True, class_name="small")
    assert not capacity.ask("claimed", ago(2), class_name="small")
    assert (capacity.displaced("announced"), capacity.displaced("elsewhere")) == (True, False)
    capacity.release("announced")
    assert capacity.ask("claimed", ago(2), class_name="small")


def test_a_session_keeps_the_class_with_which_it_got_its_slot() -> None:
    capacity = Capacity(2, 100)
    capacity.share_slots({"old": ClassShare(), "new": ClassShare(max_active_sandboxes=1)})
    assert capacity.ask("session", ago(2), announced=True, class_name="old")
    assert capacity.ask("session", ago(2), class_name="new")
    capacity.hold("session", "new")
    assert capacity.used_by_class == {"old": 1}
    assert capacity.ask("other", ago(1), class_name="new")


def test_a_refused_session_waits_in_its_class() -> None:
    clock = Clock()
    capacity = Capacity(3, 100, clock=clock)
    capacity.share_slots({"gold": ClassShare(guaranteed_slots=1)})
    assert capacity.ask("running", ago(3))
    assert capacity.ask("gold", ago(2), class_name="gold")
    capacity.refused("gold", ago(2), class_name="gold")
    assert not capacity.ask("older", ago(100))
    assert capacity.waiting_by_class == {"gold": 1, "": 1}
    capacity.release("running")
    assert not capacity.ask("older", ago(100))
    assert capacity.ask("gold", ago(2), class_name="gold")


def test_without_classes_the_queue_is_polled_only_for_what_can_be_served() -> None:
    capacity = Capacity(3, 100, offers_ahead=100)
    assert capacity.claimable([]) == 3
    capacity.share_slots({"gold": ClassShare()})
    assert capacity.claimable([]) == 103
    capacity.share_slots({})
    assert capacity.claimable([]) == 3


@pytest.mark.parametrize("ahead", [1, 2, 6])
def test_the_queue_is_polled_however_many_offers_of_all_classes_wait(ahead: int) -> None:
    """Otherwise the tokens of those offers are not renewed, and the work of a further class is not seen."""
    capacity = Capacity(1, 100, offers_ahead=ahead)
    capacity.share_slots({"gold": ClassShare(), "silver": ClassShare()})
    assert capacity.ask("running", ago(100))
    for class_name in ("", "gold", "silver"):
        for age in (9, 8, 7):
            assert not capacity.ask(f"{class_name}-{age}", ago(age), class_name=class_name)
    assert capacity.claimable([]) == 1


@given(flood=st.integers(0, 300), ahead=st.integers(1, 100), slots=st.integers(1, 5))
def test_the_offers_of_a_flood_never_keep_those_of_another_class_from_being_taken(
    flood: int, ahead: int, slots: int
) -> None:
    """As many offers as may be taken ahead are kept; those beyond are left to the queue, newest first."""
    capacity = Capacity(slots, 100, offers_ahead=ahead)
    capacity.share_slots({"flood": ClassShare(), "quiet": ClassShare(), "full": ClassShare()})
    left = []
    for number in range(flood):
        assert capacity.claimable([]) > 0
        name = f"flood-{number:03}"
        if not capacity.ask(name, ago(1000 - number), class_name="flood") and capacity.leaves_offer(name):
            capacity.release(name)
            left.append(number)
    kept = min(flood, slots + ahead)
    assert left == list(range(kept, flood)), "the oldest are kept"
    assert capacity.used + capacity.waiting <= slots + ahead
    assert capacity.claimable([]) > 0
    assert capacity.ask("quiet", NOW, class_name="quiet") or not capacity.leaves_offer("quiet")


def test_an_offer_of_another_class_replaces_the_newest_of_the_flood() -> None:
    woken: list[str] = []
    capacity = Capacity(1, 100, offers_ahead=4, wake=woken.append)
    capacity.share_slots({"gold": ClassShare()})
    for age in (60, 50, 40, 30, 20):
        assert capacity.ask(f"aged-{age}", ago(age), class_name="gold") == (age == 60)
    assert not capacity.leaves_offer("aged-20")
    assert woken == []
    assert not capacity.ask("quiet", ago(10))
    assert not capacity.leaves_offer("quiet")
    assert not capacity.leaves_offer("aged-30")
    assert capacity.leaves_offer("aged-20")
    assert woken == ["aged-20"]


def test_each_class_keeps_its_part_of_the_offers() -> None:
    capacity = Capacity(1, 100, offers_ahead=6)
    capacity.share_slots({"gold": ClassShare(), "silver": ClassShare()})
    assert capacity.ask("running", ago(100))
    for class_name in ("", "gold", "silver"):
        for age in (9, 8, 7):
            assert not capacity.ask(f"{class_name}-{age}", ago(age), class_name=class_name)
    for class_name in ("", "gold", "silver"):
        left = [capacity.leaves_offer(f"{class_name}-{age}") for age in (9, 8, 7)]
        assert left == [False, False, True], "two each"


@given(
    wanted=st.dictionaries(st.sampled_from(CLASSES[1:]), st.integers(0, 30)),
    slots=st.integers(0, 40),
)
def test_guarantees_beyond_the_slots_are_scaled_in_proportion(wanted: dict[str, int], slots: int) -> None:
    shares = {name: ClassShare(guaranteed_slots=count) for name, count in wanted.items()}
    granted = guarantees_within(shares, slots)
    total = sum(wanted.values())
    assert sum(granted.values()) == min(total, slots)
    assert granted == guarantees_within(dict(reversed(shares.items())), slots)
    for name, count in wanted.items():
        exact = Fraction(count * min(slots, total), max(1, total))
        assert abs(granted.get(name, 0) - exact) < 1
        assert granted.get(name, 0) <= count
        reduced = why_guarantee_reduced(name, shares, slots)
        assert (reduced is None) == (granted.get(name, 0) == count)


def test_a_class_learns_why_it_has_fewer_guaranteed_slots() -> None:
    shares = {"gold": ClassShare(guaranteed_slots=30), "silver": ClassShare(guaranteed_slots=10)}
    assert why_guarantee_reduced("gold", shares, 20) == (
        "All classes together are guaranteed 40 slots, but there are 20. "
        "This class is guaranteed 15 instead of 30."
    )
    small = {"small": ClassShare(guaranteed_slots=3, max_active_sandboxes=2)}
    message = why_guarantee_reduced("small", small, 20)
    assert message == "guaranteedSlots is 3, but maxActiveSandboxes limits the class to 2."


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"guaranteed_slots": -1}, {"max_active_sandboxes": 0}])
def test_a_share_out_of_range_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        ClassShare(**wrong)
