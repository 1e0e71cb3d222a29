"""Capacities that each share slots wrongly in one way: the rules of `sharing.py` find every one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, settings
from managed_session_operator.capacity.class_shares import DEFAULT_SHARE, NO_CLASS, ClassShare
from managed_session_operator.capacity.fair_queue import FairQueue, Standing
from managed_session_operator.capacity.held_slots import HeldSlots
from managed_session_operator.capacity.slots import Capacity

from .sharing import scenarios, violated

_FAR = datetime(2100, 1, 1, tzinfo=UTC)


class AllInOneQueue(Capacity):
    """Ignores the class of who asks."""

    def ask(self, name: str, since: datetime, *, announced: bool = False, class_name: str = NO_CLASS) -> bool:
        del class_name
        return super().ask(name, since, announced=announced)


class WithoutWeights(Capacity):
    """Gives every class the same weight."""

    def standing(self, class_name: str) -> Standing:
        return replace(super().standing(class_name), weight=1)


class WeightsUpsideDown(Capacity):
    """Serves the class with the most slots for its weight."""

    def standing(self, class_name: str) -> Standing:
        standing = super().standing(class_name)
        return replace(standing, weight=1 / standing.weight)  # type: ignore[arg-type]


class WithoutGuarantees(Capacity):
    """Forgets what is guaranteed."""

    def standing(self, class_name: str) -> Standing:
        return replace(super().standing(class_name), guaranteed=0)


class UnscaledGuarantees(Capacity):
    """Promises more slots than there are."""

    def standing(self, class_name: str) -> Standing:
        share = self._shares.get(class_name, DEFAULT_SHARE)
        return replace(super().standing(class_name), guaranteed=share.usable_guarantee)


class ReservedGuarantees(Capacity):
    """Keeps guaranteed slots empty for classes that do not need them."""

    def _has_turn(self, name: str, *, announced: bool) -> bool:
        unused = sum(
            max(0, standing.guaranteed - standing.used)
            for standing in map(self.standing, self._shares)
            if standing.guaranteed
        )
        return self.free > unused and super()._has_turn(name, announced=announced)


class WithoutMaximum(Capacity):
    """Lets a class have more slots than its maximum."""

    def standing(self, class_name: str) -> Standing:
        return replace(super().standing(class_name), most=None)


class MaximumWithoutAnnouncedRuns(Capacity):
    """Does not count announced runs towards a class's maximum."""

    def standing(self, class_name: str) -> Standing:
        return replace(super().standing(class_name), used=self._held.claimed_of(class_name))


class _OtherOrder(Capacity):
    order: type[FairQueue]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._queue = self.order(self.standing)


class FullClassBlocks(_OtherOrder):
    """A class that has its maximum, and whose session is the oldest, keeps all others waiting."""

    class order(FairQueue):  # noqa: N801
        def _order(self) -> Iterator[str]:
            oldest = min(self._queues, key=lambda each: self._queues[each].oldest or _FAR, default=None)
            if oldest is not None and not self._standing(oldest).full:
                yield from super()._order()


class NewestFirst(_OtherOrder):
    """Serves the newest session of a class first."""

    class order(FairQueue):  # noqa: N801
        def join(
            self, name: str, since: datetime, *, announced: bool = False, class_name: str = NO_CLASS
        ) -> None:
            turned = _FAR - timedelta(seconds=since.timestamp())
            super().join(name, turned, announced=announced, class_name=class_name)


class TiesByName(_OtherOrder):
    """Among classes that are equal, prefers the first by name."""

    class order(FairQueue):  # noqa: N801
        def _turn(self, class_name: str, index: int, given: dict[str, int], *, announced: bool) -> Any:
            turn = super()._turn(class_name, index, given, announced=announced)
            return (*turn[:2], _FAR, *turn[3:]) if turn is not None else None


class AnnouncedRunsOfQuietClassesFirst(_OtherOrder):
    """Compares classes before it compares claimed work with announced runs."""

    class order(FairQueue):  # noqa: N801
        def _order(self) -> Iterator[str]:
            by_used = sorted(self._queues, key=lambda each: self._standing(each).used)
            for class_name in by_used:
                if not self._standing(class_name).full:
                    yield from self._queues[class_name].first(1)


class ForgetsReleases(Capacity):
    """Counts a slot for its class although it was released."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)

        class Held(HeldSlots):
            def of(self, class_name: str) -> int:
                self.most = max(getattr(self, "most", 0), super().of(class_name))
                return self.most

        self._held = Held()


class WakesTheOldest(Capacity):
    """Wakes whoever has waited longest, not whose turn it is."""

    def _wake_next(self) -> None:
        ranks = [queue.at(0) for queue in self._queue._queues.values()]
        for _, _, name in sorted(ranks)[: max(1, self.free)]:
            self._wake(name)


class WakesOnlyOne(Capacity):
    """Wakes one session, however many slots are free."""

    def _wake_next(self) -> None:
        for name in self._queue.first(1):
            self._wake(name)


class KeepsQuietAboutNewShares(Capacity):
    """Takes new shares, and wakes nobody who may run now."""

    def share_slots(self, shares: Mapping[str, ClassShare]) -> None:
        wake, self._wake = self._wake, lambda _: None
        super().share_slots(shares)
        self._wake = wake


class KeepsQuietAboutNewClasses(_OtherOrder):
    """Wakes nobody when a session that was woken turns out to have another class."""

    class order(FairQueue):  # noqa: N801
        def class_of(self, name: str) -> None:
            del name


class NeverTakesNewShares(Capacity):
    """Keeps the first shares."""

    def share_slots(self, shares: Mapping[str, ClassShare]) -> None:
        if not self._shares:
            super().share_slots(shares)


class AnnouncedRunsStay(Capacity):
    """Lets announced runs keep their slots while claimed work waits."""

    def _displaced(self) -> list[str]:
        return []


class AnnouncedRunsOfFullClassesStay(Capacity):
    """Frees slots for claimed work only where all slots are in use, not where the class is full."""

    def _displaced(self) -> list[str]:
        return super()._displaced() if not self.free else []


FAULTY = [
    AllInOneQueue,
    WithoutWeights,
    WeightsUpsideDown,
    WithoutGuarantees,
    UnscaledGuarantees,
    ReservedGuarantees,
    WithoutMaximum,
    MaximumWithoutAnnouncedRuns,
    FullClassBlocks,
    NewestFirst,
    TiesByName,
    AnnouncedRunsOfQuietClassesFirst,
    ForgetsReleases,
    WakesTheOldest,
    WakesOnlyOne,
    KeepsQuietAboutNewShares,
    KeepsQuietAboutNewClasses,
    NeverTakesNewShares,
    AnnouncedRunsStay,
    AnnouncedRunsOfFullClassesStay,
]

_SEARCH = settings(
    max_examples=5000,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("kind", FAULTY, ids=lambda kind: kind.__name__)
def test_a_capacity_with_a_fault_breaks_a_rule(kind: type[Capacity]) -> None:
    found = find(scenarios, lambda scenario: violated(kind, scenario) is not None, settings=_SEARCH)
    assert violated(kind, found) is not None
