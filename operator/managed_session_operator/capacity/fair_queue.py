"""The wait queue of all classes: shares the slots by weight and guarantee, oldest first inside a class."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from managed_session_operator.capacity.class_shares import NO_CLASS
from managed_session_operator.capacity.wait_queue import WaitQueue


@dataclass(frozen=True)
class Standing:
    """What a class uses and may use at the moment.

    Attributes:
        used: number of slots that the class has.
        weight: the class's weight.
        guaranteed: number of slots that the class gets before all others.
        most: maximum number of slots that the class may have; None for no maximum.
    """

    used: int = 0
    weight: int = 1
    guaranteed: int = 0
    most: int | None = None

    def with_more(self, more: int) -> Standing:
        """Return the standing after the class got this many more slots."""
        return Standing(self.used + more, self.weight, self.guaranteed, self.most)

    @property
    def full(self) -> bool:
        """Whether the class has all slots that it may have."""
        return self.most is not None and self.used >= self.most


_Turn = tuple[bool, float, datetime, str, str, int]
"""(whether the class has its guaranteed slots, its slots divided by its weight, since when the class's next
resource has been waiting, that resource, the class, the resource's place in the class's queue). The least of
all classes is served next."""


class FairQueue:
    """Names of all classes that wait, in the order in which to serve them.

    Claimed work comes before announced runs. Among each, the next name is of the class that is below its
    guarantee, then of the class that has the fewest slots for its weight, then the oldest. The order depends
    only on the present state, so a new leader that finds the same slots in use continues it.

    Args:
        standing: returns what a class uses and may use.
    """

    def __init__(self, standing: Callable[[str], Standing]) -> None:
        self._standing = standing
        self._queues: dict[str, WaitQueue] = {}
        self._class_of: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._class_of)

    def __contains__(self, name: str) -> bool:
        return name in self._class_of

    def join(
        self, name: str, since: datetime, *, announced: bool = False, class_name: str = NO_CLASS
    ) -> None:
        """Join the class's queue with the waiting time since `since`. A later time does not move a name back.

        A name that waits in another class's queue leaves it, and keeps its time.
        """
        before = self._class_of.get(name)
        if before is not None and before != class_name:
            since = min(since, self._queues[before].since(name))
            self.leave(name)
        self._class_of[name] = class_name
        self._queues.setdefault(class_name, WaitQueue()).join(name, since, announced=announced)

    def leave(self, name: str) -> None:
        """Leave the queue."""
        class_name = self._class_of.pop(name, None)
        if class_name is None:
            return
        queue = self._queues[class_name]
        queue.leave(name)
        if not len(queue):
            del self._queues[class_name]

    def clear(self) -> None:
        """Empty the queue."""
        self._queues.clear()
        self._class_of.clear()

    def first(self, count: int) -> list[str]:
        """Return the names to serve next, at most `count`. Names of a full class are not among them."""
        return list(islice(self._order(), max(0, count)))

    def _order(self) -> Iterator[str]:
        given: dict[str, int] = {}
        for announced in (False, True):
            turns = [turn for each in self._queues if (turn := self._begin(each, given, announced))]
            heapq.heapify(turns)
            while turns:
                *_, name, class_name, index = turns[0]
                yield name
                given[class_name] = given.get(class_name, 0) + 1
                following = self._turn(class_name, index + 1, given, announced=announced)
                if following is None:
                    heapq.heappop(turns)
                else:
                    heapq.heapreplace(turns, following)

    def _begin(self, class_name: str, given: dict[str, int], announced: bool) -> _Turn | None:
        index = self._queues[class_name].claimed if announced else 0
        return self._turn(class_name, index, given, announced=announced)

    def _turn(self, class_name: str, index: int, given: dict[str, int], *, announced: bool) -> _Turn | None:
        """Return the turn of the resource at this place of the class's queue; None if there is none."""
        queue = self._queues[class_name]
        standing = self._standing(class_name).with_more(given.get(class_name, 0))
        end = len(queue) if announced else queue.claimed
        if index >= end or standing.full:
            return None
        _, since, name = queue.at(index)
        over_guarantee, used_per_weight = (
            standing.used >= standing.guaranteed,
            standing.used / standing.weight,
        )
        return over_guarantee, used_per_weight, since, name, class_name, index

    def ahead_of(self, name: str) -> int | None:
        """Return how many names are served before `name`, which must wait; None if its class is full."""
        class_name = self._class_of[name]
        if len(self._queues) == 1 and self._standing(class_name).most is None:
            return self.place_in_class(name)
        return next((index for index, each in enumerate(self._order()) if each == name), None)

    def place_in_class(self, name: str) -> int:
        """Return how many names of its class are served before `name`, which must be waiting."""
        return self._queues[self._class_of[name]].ahead_of(name)

    def class_of(self, name: str) -> str | None:
        """Return the class in whose queue `name` waits; None if it does not wait."""
        return self._class_of.get(name)

    def is_claimed(self, name: str) -> bool:
        """Return whether `name` waits with claimed work."""
        class_name = self._class_of.get(name)
        return class_name is not None and not self._queues[class_name].is_announced(name)

    def claimed_of(self, class_name: str) -> int:
        """Return the number of the class's names that wait with claimed work."""
        queue = self._queues.get(class_name)
        return queue.claimed if queue is not None else 0

    def of_class(self, class_name: str) -> int:
        """Return the number of the class's names that wait."""
        queue = self._queues.get(class_name)
        return len(queue) if queue is not None else 0

    def claimed_beside(self, name: str) -> int:
        """Return the number of names of its class, itself included, that wait with claimed work."""
        return self.claimed_of(self._class_of[name])

    def claimed_at_most(self, most: int) -> int:
        """Return the number of names that wait with claimed work, of each class at most `most`."""
        return sum(min(queue.claimed, most) for queue in self._queues.values())

    def last_claimed_of_longest(self) -> str:
        """Return the newest claimed work of the class that has the most. There must be some."""
        queue = max(self._queues.values(), key=lambda each: each.claimed)
        return queue.at(queue.claimed - 1)[2]

    @property
    def claimed(self) -> int:
        """Number of names that wait with claimed work."""
        return sum(queue.claimed for queue in self._queues.values())

    @property
    def by_class(self) -> dict[str, int]:
        """Number of waiting names of each class that has any."""
        return {class_name: len(queue) for class_name, queue in self._queues.items()}

    @property
    def oldest(self) -> datetime | None:
        """Since when the first of all names has been waiting."""
        return min((since for queue in self._queues.values() if (since := queue.oldest)), default=None)
