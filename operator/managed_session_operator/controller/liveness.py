"""Checks that the loops of this process keep running, for the probe /livez.

A restart repairs only faults of this process. So an unreachable API server or cloud, or a missing credential,
does not make the probe fail: the loops keep running and report such errors elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Clock = Callable[[], float]


class Liveness:
    """Receives reports of loops. A loop that has not reported in time counts as stuck.

    Args:
        clock: monotonic clock in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._within: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self._measured: dict[str, tuple[Callable[[], float], float]] = {}

    def expect(self, loop: str, within: float) -> None:
        """Expect `loop` to report at least every `within` seconds from now on."""
        self._within[loop] = within
        self.beat(loop)

    def beat(self, loop: str, sleeps: float = 0.0) -> None:
        """Report that `loop` is running, and that it now sleeps on purpose for `sleeps` seconds."""
        if loop in self._within:
            self._due[loop] = self._clock() + sleeps + self._within[loop]

    def forget(self, loop: str) -> None:
        """Expect no more reports, because `loop` has ended as it should."""
        self._within.pop(loop, None)
        self._due.pop(loop, None)

    def measure(self, what: str, seconds: Callable[[], float], at_most: float) -> None:
        """Count `what` as stuck when `seconds()` exceeds `at_most`."""
        self._measured[what] = (seconds, at_most)

    def check(self) -> tuple[bool, dict[str, Any]]:
        """Return the probe's answer: whether all is well, what is stuck, and by how many seconds."""
        now = self._clock()
        late = {loop: now - due for loop, due in self._due.items() if now > due}
        for what, (seconds, at_most) in self._measured.items():
            over = seconds() - at_most
            if over > 0:
                late[what] = over
        return not late, {"stuck": {what: round(over, 1) for what, over in late.items()}} if late else {}


class WatchProgress:
    """Measures how long the watch has not delivered a change that is known from a list or our own write.

    kopf reopens a silent watch after 70 s, and the resync lists all resources anyway. So this detects a watch
    that stays silent because its task is stuck or something on the way to the API server drops its events.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._watched = 0
        self._owed: tuple[int, float] | None = None

    def watched(self, version: int) -> None:
        """Note that the watch has delivered an object of this resource version."""
        self._watched = max(self._watched, version)
        if self._owed is not None and self._watched >= self._owed[0]:
            self._owed = None

    def known(self, newest: int) -> None:
        """Note the highest resource version of all existing objects, however it became known."""
        if self._owed is not None and newest < self._owed[0]:
            # The object that the watch had not delivered has been deleted since.
            self._owed = None
        if self._owed is None and newest > self._watched:
            self._owed = (newest, self._clock())

    def behind_seconds(self) -> float:
        """Return for how long the watch has been behind; 0 if it is up to date."""
        return self._clock() - self._owed[1] if self._owed is not None else 0.0
