"""A worker that was frozen past the end of its lease must not do anything any more.

A paused sandbox thaws in the middle of whatever its worker did, perhaps hours later, when another worker may
serve the session. Depending on how it was frozen, one clock jumps or another: stopped processes see all of
them go on, a resumed virtual machine may see only the wall clock jump. The largest step of any clock counts.
"""

import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass

#: The event loop wakes at least this often, so a longer gap between two looks at the clocks is a freeze.
TICK_SECONDS = 0.5
FREEZE_SECONDS = 2.0


@dataclass(frozen=True)
class ClockReading:
    """The three clocks at one moment, in seconds."""

    wall: float
    monotonic: float
    boot: float

    @classmethod
    def take(cls) -> "ClockReading":
        """Read all clocks now."""
        return cls(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))

    def seconds_until(self, later: "ClockReading") -> float:
        """The largest step that any clock made up to `later`."""
        return max(later.wall - self.wall, later.monotonic - self.monotonic, later.boot - self.boot)


class FreezeGuard:
    """Compares the clocks with the lease each time the event loop wakes."""

    def __init__(self, on_thaw: Callable[[float], None]) -> None:
        """`on_thaw` gets the seconds that the worker was frozen for; it must end the process."""
        self._on_thaw = on_thaw
        self._last = ClockReading.take()
        self._lease_from: ClockReading | None = None
        self._lease_seconds = 0.0

    def renew(self, sent: ClockReading, seconds: float) -> None:
        """The lease runs for `seconds` from `sent`, when the heartbeat that extended it left."""
        self._lease_from, self._lease_seconds = sent, seconds

    def check(self) -> None:
        """Call `on_thaw` if this process has just thawed and its lease ended meanwhile."""
        reading = ClockReading.take()
        gap = self._last.seconds_until(reading)
        self._last = reading
        if gap < FREEZE_SECONDS or self._lease_from is None:
            return
        if self._lease_from.seconds_until(reading) > self._lease_seconds:
            self._on_thaw(gap)


class GuardedSelector(selectors.EpollSelector):
    """Looks at the clocks after every wait, before any callback of the event loop runs."""

    def __init__(self, guard: FreezeGuard) -> None:
        super().__init__()
        self._guard = guard

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, at most one tick long."""
        limited = TICK_SECONDS if timeout is None else min(timeout, TICK_SECONDS)
        events = super().select(limited)
        self._guard.check()
        return events
