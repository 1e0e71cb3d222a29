"""An ordered waiting line: claimed work before announced work, the oldest first."""

from __future__ import annotations

from bisect import bisect_left, insort
from datetime import datetime

_Rank = tuple[bool, datetime, str]
"""(only announced, waiting since, name): smaller is served earlier."""


class WaitingLine:
    """Names in the order in which they are to be served. Who leaves and comes back has its old rank."""

    def __init__(self) -> None:
        self._ranks: dict[str, _Rank] = {}
        self._order: list[_Rank] = []

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, name: str) -> bool:
        return name in self._ranks

    def join(self, name: str, since: datetime, *, announced: bool = False) -> None:
        """Stand in line since `since`; a later time does not move back who waits already."""
        known = self._ranks.get(name)
        if known is not None:
            if known[0] == announced and known[1] <= since:
                return
            self.leave(name)
        rank = (announced, since, name)
        self._ranks[name] = rank
        insort(self._order, rank)

    def leave(self, name: str) -> None:
        """Wait no more."""
        rank = self._ranks.pop(name, None)
        if rank is not None:
            del self._order[bisect_left(self._order, rank)]

    def clear(self) -> None:
        """Forget all."""
        self._ranks.clear()
        self._order.clear()

    def first(self, count: int) -> list[str]:
        """The names that are served next, at most `count`."""
        return [rank[2] for rank in self._order[:count]]

    def ahead_of(self, name: str) -> int:
        """How many are served before `name`, which stands in the line."""
        return bisect_left(self._order, self._ranks[name])

    @property
    def claimed(self) -> int:
        """How many wait with claimed work."""
        return bisect_left(self._order, (True,))

    @property
    def oldest(self) -> datetime | None:
        """Since when the longest waiting one waits."""
        return min((rank[1] for rank in self._order), default=None)
