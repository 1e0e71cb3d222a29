"""How many sandboxes E2B allows at present, as learnt from its refusals."""

from __future__ import annotations

from collections.abc import Callable

_BACKOFF_SECONDS = 5.0
_BACKOFF_CAP_SECONDS = 60.0
_RATE_LIMIT_SECONDS = 1.0
"""First pause after a rate limit: E2B's shortest time window. The SDK does not pass Retry-After on."""
_MOST_DOUBLINGS = 10


class AllowedStarts:
    """The number of slots that E2B allows, and the pauses after its refusals.

    E2B may allow fewer sandboxes than the configured limit. A refusal lowers the allowed slots to the number
    in use. Further slots are then tried one at a time, after a pause that doubles with each refusal, until
    E2B allows them; so there are few refused calls, however many resources wait. A rate limit does not change
    the number of slots: nothing is started during a pause that doubles with each consecutive refusal.

    Args:
        limit: number of slots.
        scale: multiplies the pauses (`MANAGED_SESSIONS_RETRY_SCALE`).
        clock: monotonic clock in seconds.
    """

    def __init__(self, limit: int, scale: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._scale = scale
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget all refusals."""
        self._allowed = self._limit
        self._refusals = 0
        self._probing: str | None = None
        self._probe_at = self._closed_until = float("-inf")
        self._rate_refusals = 0
        self._rate_limited_until = float("-inf")

    @property
    def slots(self) -> int:
        """Number of slots that E2B allows, at most the limit."""
        return self._allowed

    @property
    def is_closed(self) -> bool:
        """Whether E2B currently allows no starts."""
        return self._clock() < self._closed_until or self.is_rate_limited

    @property
    def is_rate_limited(self) -> bool:
        """Whether starts are on hold because E2B's rate limit is reached."""
        return self._clock() < self._rate_limited_until

    @property
    def may_probe(self) -> bool:
        """Whether one more slot than E2B is known to allow may be tried now."""
        return self._allowed < self._limit and self._probing is None and self._clock() >= self._probe_at

    @property
    def pause_seconds(self) -> float:
        """Seconds until a start, or one more slot, may be tried; 0 without a pause."""
        now = self._clock()
        probe_at = self._probe_at if self._allowed < self._limit else now
        return max(0.0, max(self._closed_until, self._rate_limited_until, probe_at) - now)

    def probe(self, name: str) -> None:
        """Record that the resource tries one more slot than E2B is known to allow."""
        self._probing = name

    def started(self, name: str, used: int) -> bool:
        """Record that E2B started the resource's sandbox. Return whether it allows more slots than before.

        Args:
            name: name of the resource.
            used: number of slots in use.
        """
        self._rate_refusals = 0
        if name != self._probing:
            return False
        self._allowed = min(self._limit, max(self._allowed, used))
        self._refusals, self._probing, self._probe_at = 0, None, self._clock()
        return True

    def refused(self, name: str, used: int, retry_after: float | None) -> None:
        """Record that E2B allows no more running sandboxes than the `used` ones.

        Args:
            name: name of the resource.
            used: number of slots in use, without the resource's.
            retry_after: seconds that E2B asked to wait, if it did.
        """
        self._allowed = min(self._allowed, used)
        now = self._clock()
        if now >= self._probe_at:
            # Of concurrent calls, only the first refusal counts.
            self._pause()
        if retry_after is not None:
            self._closed_until = max(self._closed_until, now + retry_after)
        if self._probing == name:
            self._probing = None

    def rate_limited(self, name: str, retry_after: float | None) -> None:
        """Record that E2B's rate limit is reached. Arguments as for `refused`."""
        now = self._clock()
        if not self.is_rate_limited:
            # Of concurrent calls, only the first refusal counts.
            pause = min(_RATE_LIMIT_SECONDS * 2.0**self._rate_refusals, _BACKOFF_CAP_SECONDS)
            self._rate_refusals = min(self._rate_refusals + 1, _MOST_DOUBLINGS)
            self._rate_limited_until = now + pause * self._scale
        self._rate_limited_until = max(self._rate_limited_until, now + (retry_after or 0.0))
        if self._probing == name:
            # A rate limit says nothing about the number of slots, so the next resource tries it.
            self._probing = None

    def released(self, name: str) -> None:
        """Record that the resource has given up its slot. If it was trying one more, the next waits."""
        if self._probing == name:
            self._probing = None
            self._pause()

    def _pause(self) -> None:
        pause = min(_BACKOFF_SECONDS * 2.0**self._refusals, _BACKOFF_CAP_SECONDS)
        self._refusals = min(self._refusals + 1, _MOST_DOUBLINGS)
        self._probe_at = self._clock() + pause * self._scale
