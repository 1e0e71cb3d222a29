"""How many sandboxes may run at once, who has a place, and who is next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime

from managed_session_operator.waiting_line import WaitingLine

_BACKOFF_SECONDS = 5.0
_BACKOFF_CAP_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 30.0
"""Who waits is woken when it is its turn; this is for a wake that was missed."""
_LEAST_WAIT_SECONDS = 0.02


class Capacity:
    """Places for running sandboxes, and the line of those who wait for one. Lives on one event loop.

    A resource holds a place from before its sandbox is created or resumed until it is paused or gone.

    E2B may allow fewer than the configured limit. A refusal lowers the places to what runs. More are then
    tried one at a time, after a pause that doubles with each refusal, until E2B allows them: so refused
    calls are few, however many wait.

    Args:
        limit: places in all.
        hint_percent: part of the places that sessions without claimed work may hold together.
        wake: called with the name of a resource whose turn has come, or whose place others need.
        scale: factor on the pauses (`MANAGED_SESSIONS_RETRY_SCALE`).
        clock: monotonic seconds.
    """

    def __init__(
        self,
        limit: int,
        hint_percent: int,
        *,
        wake: Callable[[str], None] = lambda _: None,
        scale: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._hint_percent = hint_percent
        self._wake = wake
        self._scale = scale
        self._clock = clock
        self._line = WaitingLine()
        self._claimed: set[str] = set()
        self._hinted: dict[str, datetime] = {}
        self._forget_refusals()

    def _forget_refusals(self) -> None:
        self._allowed = self._limit
        self._refusals = 0
        self._probing: str | None = None
        self._probe_at = self._closed_until = float("-inf")

    @property
    def limit(self) -> int:
        """Places in all, as configured."""
        return self._limit

    @property
    def allowed(self) -> int:
        """Places that E2B is known to allow, at most the limit."""
        return self._allowed

    @property
    def used(self) -> int:
        """Places that are held."""
        return len(self._claimed) + len(self._hinted)

    @property
    def free(self) -> int:
        """Places that nobody holds, and E2B allows."""
        return max(0, self._allowed - self.used)

    @property
    def waiting(self) -> int:
        """Resources that wait for a place."""
        return len(self._line)

    @property
    def oldest_wait_since(self) -> datetime | None:
        """Since when the longest waiting resource waits."""
        return self._line.oldest

    def claimable(self, offered: Iterable[str]) -> int:
        """How many items of the queue could be served beyond those that are here already.

        A hint's place turns into its claim's.

        Args:
            offered: the resources whose work was offered and is not written down yet.
        """
        if self._clock() < self._closed_until:
            return 0
        known = len(self._claimed) + self._line.claimed
        known += sum(1 for name in offered if name not in self._claimed and not self._waits_claimed(name))
        return max(0, self._allowed + self._may_probe() - known)

    def _waits_claimed(self, name: str) -> bool:
        return name in self._line and self._line.ahead_of(name) < self._line.claimed

    def _may_probe(self) -> bool:
        """Whether one more than E2B is known to allow may be tried now."""
        return self._allowed < self._limit and self._probing is None and self._clock() >= self._probe_at

    def holds_for_claim(self, name: str) -> bool:
        """Whether the resource has a place for claimed work."""
        return name in self._claimed

    def holds(self, name: str) -> bool:
        """Whether the resource has a place."""
        return name in self._claimed or name in self._hinted

    def waits(self, name: str) -> bool:
        """Whether the resource stands in line."""
        return name in self._line

    def hold(self, name: str) -> None:
        """Count a sandbox that runs already, however many there are."""
        self._line.leave(name)
        self._hinted.pop(name, None)
        self._claimed.add(name)

    def ask(self, name: str, since: datetime, *, announced: bool = False) -> bool:
        """A place, or one in the line.

        Args:
            name: the resource.
            since: since when its work waits; the oldest is served first.
            announced: its work is announced and not claimed: it comes after all claimed work.
        """
        if self.holds(name):
            if not announced:
                self.hold(name)
            return True
        self._line.join(name, since, announced=announced)
        if not self._has_turn(name, announced=announced):
            for other in () if announced else self._displaced():
                self._wake(other)
            return False
        self._line.leave(name)
        if announced:
            self._hinted[name] = since
        else:
            self._claimed.add(name)
        return True

    def _has_turn(self, name: str, *, announced: bool) -> bool:
        if self._clock() < self._closed_until:
            return False
        before = self.used + self._line.ahead_of(name)
        if announced:
            return before < self._allowed * self._hint_percent // 100
        if before < self._allowed:
            return True
        if before == self.used < self._limit and self._may_probe():
            self._probing = name
            return True
        return False

    def _displaced(self) -> list[str]:
        """Who has a place for announced work that claimed work waits for: the newest of them."""
        wanted = self._line.claimed - self.free
        return sorted(self._hinted, key=lambda name: self._hinted[name])[-wanted:] if wanted > 0 else []

    def displaced(self, name: str) -> bool:
        """Whether the resource is to give its place, for announced work, to claimed work that waits."""
        return name in self._hinted and name in self._displaced()

    def wait_seconds(self) -> float:
        """When who waits is to ask again, unless it is woken."""
        now = self._clock()
        due = max(self._closed_until, self._probe_at if self._allowed < self._limit else now)
        return max(_LEAST_WAIT_SECONDS, due - now) if due > now else _LOOK_AGAIN_SECONDS

    def started(self, name: str) -> None:
        """E2B started the resource's sandbox."""
        if name != self._probing:
            return
        self._allowed = min(self._limit, max(self._allowed, self.used))
        self._refusals, self._probing, self._probe_at = 0, None, self._clock()
        self._wake_next()

    def refused(
        self, name: str, since: datetime, *, announced: bool = False, retry_after: float | None = None
    ) -> None:
        """E2B runs no more sandboxes for now: the resource goes back to the line.

        Args:
            name: the resource.
            since: since when its work waits.
            announced: its work is announced and not claimed.
            retry_after: seconds for which E2B asked us to send nothing, if it said so.
        """
        self._claimed.discard(name)
        self._hinted.pop(name, None)
        self._allowed = min(self._allowed, self.used)
        now = self._clock()
        if now >= self._probe_at:
            # Of calls that were sent side by side, the first refusal counts.
            self._pause(now)
        if retry_after is not None:
            self._closed_until = max(self._closed_until, now + retry_after)
        if self._probing == name:
            self._probing = None
        self._line.join(name, since, announced=announced)
        self._wake_next()

    def _pause(self, now: float) -> None:
        pause = min(_BACKOFF_SECONDS * 2.0**self._refusals, _BACKOFF_CAP_SECONDS)
        self._refusals = min(self._refusals + 1, 10)
        self._probe_at = now + pause * self._scale

    def release(self, name: str) -> None:
        """Give the resource's place back, or leave the line."""
        if not self.holds(name) and name not in self._line:
            return
        self._claimed.discard(name)
        self._hinted.pop(name, None)
        self._line.leave(name)
        if self._probing == name:
            self._probing = None
            self._pause(self._clock())
        self._wake_next()

    def _wake_next(self) -> None:
        for name in self._line.first(max(1, self.free)):
            self._wake(name)

    def clear(self) -> None:
        """Forget all places, the line and what E2B refused."""
        self._claimed.clear()
        self._hinted.clear()
        self._line.clear()
        self._forget_refusals()
