"""The wait queue: claimed work before announced runs, oldest first."""

from __future__ import annotations

from bisect import bisect_left, insort
from datetime import datetime

Rank = tuple[bool, datetime, str]
"""(only announced, waiting since, name). Smaller ranks are served first."""


class WaitQueue:
    """Names in the order in which to serve them. A name that leaves and rejoins keeps its rank."""

    def __init__(self) -> None:
        self._ranks: dict[str, Rank] = {}
        self._order: list[Rank] = []

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, name: str) -> bool:
        return name in self._ranks

    def join(self, name: str, since: datetime, *, announced: bool = False) -> None:
        """Join the queue with the waiting time since `since`. A later time does not move a name back."""
        known = self._ranks.get(name)
        if known is not None:
            if known[0] == announced and known[1] <= since:
                return
            self.leave(name)
        rank = (announced, since, name)
        self._ranks[name] = rank
        insort(self._order, rank)

    def leave(self, name: str) -> None:
        """Leave the queue."""
        rank = self._ranks.pop(name, None)
        if rank is not None:
            del self._order[bisect_left(self._order, rank)]

    def clear(self) -> None:
        """Empty the queue."""
        self._ranks.clear()
        self._order.clear()

    def first(self, count: int) -> list[str]:
        """Return the names to serve next, at most `count`."""
        return [rank[2] for rank in self._order[:count]]

    def ahead_of(self, name: str) -> int:
        """Return how many names are served before `name`, which must be waiting."""
        return bisect_left(self._order, self._ranks[name])

    def at(self, index: int) -> Rank:
        """Return the rank at this place of the queue."""
        return self._order[index]

    def is_announced(self, name: str) -> bool:
        """Return whether `name`, which must be waiting, waits with an announced run."""
        return self._ranks[name][0]

    def since(self, name: str) -> datetime:
        """Return since when `name`, which must be waiting, has been waiting."""
        return self._ranks[name][1]

    @property
    def claimed(self) -> int:
        """Number of names that wait with claimed work."""
        return bisect_left(self._order, (True,))

    @property
    def oldest(self) -> datetime | None:
        """Since when the first of all names has been waiting."""
        return min((rank[1] for rank in self._order), default=None)
