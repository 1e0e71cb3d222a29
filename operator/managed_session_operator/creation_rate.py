"""When a sandbox may be created: E2B bounds creations per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from aiolimiter import AsyncLimiter

from managed_session_operator.waiting_line import WaitingLine

_LEAST_WAIT_SECONDS = 0.01


class CreationRate:
    """Creations in the order of the waiting line. Lives on one event loop.

    Args:
        rate: creations per second.
        burst: creations at once before the rate counts.
        wanted: whether the named resource still wants a sandbox; who does not leaves the line.
    """

    def __init__(self, rate: float, burst: int, wanted: Callable[[str], bool]) -> None:
        self._rate = rate
        self._limiter = AsyncLimiter(burst, burst / rate)
        self._wanted = wanted
        self._line = WaitingLine()
        self._next_at = 0.0

    async def take(self, name: str, since: datetime, *, announced: bool = False) -> float | None:
        """None when the resource may create its sandbox now; else the seconds after which to ask again."""
        self._line.join(name, since, announced=announced)
        while (first := self._line.first(1)[0]) != name and not self._wanted(first):
            self._line.leave(first)
        ahead = self._line.ahead_of(name)
        if ahead or not self._limiter.has_capacity():
            return max(_LEAST_WAIT_SECONDS, self._next_at - time.monotonic()) + ahead / self._rate
        self._line.leave(name)
        await self._limiter.acquire()
        if not self._limiter.has_capacity():
            self._next_at = time.monotonic() + 1 / self._rate
        return None

    def position(self, name: str) -> int | None:
        """Where the resource stands in the line, from 1 on."""
        return self._line.ahead_of(name) + 1 if name in self._line else None

    def leave(self, name: str) -> None:
        """The resource does not wait for a creation any more."""
        self._line.leave(name)

    def clear(self) -> None:
        """Forget who waits."""
        self._line.clear()
