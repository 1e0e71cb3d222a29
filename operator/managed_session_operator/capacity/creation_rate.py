"""Limits how many sandboxes are created per second, as E2B requires."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from aiolimiter import AsyncLimiter

from managed_session_operator.capacity.class_shares import NO_CLASS
from managed_session_operator.capacity.fair_queue import FairQueue, Standing

_LEAST_WAIT_SECONDS = 0.01


class CreationRate:
    """Allows creations in the order of the wait queue. Belongs to one event loop.

    A class of which many sandboxes wait for their creation does not delay the first sandbox of another class.

    Args:
        rate: maximum number of creations per second.
        burst: number of creations allowed at once before the rate applies.
        wanted: whether a resource still needs a sandbox. If not, it leaves the queue.
        standing: returns a class's slots and its share of them.
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        wanted: Callable[[str], bool],
        standing: Callable[[str], Standing] = lambda _: Standing(),
    ) -> None:
        self._rate = rate
        self._limiter = AsyncLimiter(burst, burst / rate)
        self._wanted = wanted
        self._standing = standing
        self._queue = FairQueue(self._created)
        self._next_at = 0.0

    def _created(self, class_name: str) -> Standing:
        """Return the class's standing, of which only slots count whose sandboxes do not wait here."""
        standing = self._standing(class_name)
        created = max(0, standing.used - self._queue.of_class(class_name))
        return Standing(created, standing.weight, standing.guaranteed)

    async def take(
        self, name: str, since: datetime, *, announced: bool = False, class_name: str = NO_CLASS
    ) -> float | None:
        """Return None if the resource may create its sandbox now, else the seconds to wait."""
        self._queue.join(name, since, announced=announced, class_name=class_name)
        while (first := self._queue.first(1)[0]) != name and not self._wanted(first):
            self._queue.leave(first)
        ahead = self._queue.ahead_of(name) or 0
        if ahead or not self._limiter.has_capacity():
            return max(_LEAST_WAIT_SECONDS, self._next_at - time.monotonic()) + ahead / self._rate
        self._queue.leave(name)
        await self._limiter.acquire()
        if not self._limiter.has_capacity():
            self._next_at = time.monotonic() + 1 / self._rate
        return None

    def position(self, name: str) -> int | None:
        """Return the resource's queue position, counted from 1; None if it is not waiting."""
        return (self._queue.ahead_of(name) or 0) + 1 if name in self._queue else None

    def leave(self, name: str) -> None:
        """Remove the resource from the queue."""
        self._queue.leave(name)

    def clear(self) -> None:
        """Empty the queue."""
        self._queue.clear()
