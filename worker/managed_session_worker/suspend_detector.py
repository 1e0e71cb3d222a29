"""Detects that the sandbox was suspended, so that a worker without a lease no longer acts.

A paused sandbox resumes in the middle of whatever its worker did, perhaps hours later, when another worker
may serve the session. Which clock jumps depends on how it was suspended: to stopped processes all clocks seem
to jump, to a resumed virtual machine perhaps only the wall clock. So the largest jump of any clock counts.
While the lease lives the worker goes on, but with new connections: the pause has killed the old ones.
"""

import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass

TICK_SECONDS = 0.5
"""The event loop wakes up at least this often, so a much longer gap between two readings is a suspension."""
SUSPEND_SECONDS = 2.0


@dataclass(frozen=True)
class ClockReading:
    """What the three clocks show at one moment, in seconds."""

    wall: float
    monotonic: float
    boot: float

    @classmethod
    def take(cls) -> "ClockReading":
        """Read all clocks now."""
        return cls(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))

    def seconds_until(self, later: "ClockReading") -> float:
        """Return the largest jump that any clock has made between this reading and `later`."""
        return max(later.wall - self.wall, later.monotonic - self.monotonic, later.boot - self.boot)


class SuspendDetector:
    """Compares the clocks with the lease each time the event loop wakes up."""

    def __init__(self, on_lease_expired: Callable[[float], None], on_resume: Callable[[float], None]) -> None:
        """Take the callbacks, which get the length of the suspension in seconds.

        Args:
            on_lease_expired: Called if the lease has ended meanwhile; it must end the process.
            on_resume: Called if the lease still lives, or there is none yet.
        """
        self._on_lease_expired = on_lease_expired
        self._on_resume = on_resume
        self._last = ClockReading.take()
        self._lease_from: ClockReading | None = None
        self._lease_seconds = 0.0

    def renew(self, sent: ClockReading, seconds: float) -> None:
        """Set the lease to `seconds` from `sent`, the time when the heartbeat was sent."""
        self._lease_from, self._lease_seconds = sent, seconds

    def check(self) -> None:
        """Call one of the callbacks if this process has just been resumed."""
        reading = ClockReading.take()
        gap = self._last.seconds_until(reading)
        self._last = reading
        if gap < SUSPEND_SECONDS:
            return
        if self._lease_from is not None and self._lease_from.seconds_until(reading) > self._lease_seconds:
            self._on_lease_expired(gap)
        else:
            self._on_resume(gap)


class SuspendDetectingSelector(selectors.EpollSelector):
    """Reads the clocks after every wait, before any callback of the event loop runs."""

    def __init__(self, detector: SuspendDetector) -> None:
        super().__init__()
        self._detector = detector

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, at most one tick long."""
        limited = TICK_SECONDS if timeout is None else min(timeout, TICK_SECONDS)
        events = super().select(limited)
        self._detector.check()
        return events
