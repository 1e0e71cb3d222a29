"""Whether what must never stand still goes on: the answer of /livez.

A restart mends only what is wrong within this process. So neither an API server nor a cloud that can't be
reached, nor a missing credential, counts: the loops go round all the same, and say so elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Clock = Callable[[], float]


class Liveness:
    """Loops report here; one that has been silent for longer than it may is stuck.

    Args:
        clock: seconds that pass while the process runs.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._within: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self._measured: dict[str, tuple[Callable[[], float], float]] = {}

    def expect(self, loop: str, within: float) -> None:
        """From now on `loop` has to report at least every `within` seconds."""
        self._within[loop] = within
        self.beat(loop)

    def beat(self, loop: str, sleeps: float = 0.0) -> None:
        """`loop` goes on, and sleeps for so many seconds now on purpose."""
        if loop in self._within:
            self._due[loop] = self._clock() + sleeps + self._within[loop]

    def let_go(self, loop: str) -> None:
        """`loop` has ended in order."""
        self._within.pop(loop, None)
        self._due.pop(loop, None)

    def measure(self, what: str, seconds: Callable[[], float], at_most: float) -> None:
        """Something is stuck, too, when `seconds()` grows above `at_most`."""
        self._measured[what] = (seconds, at_most)

    def check(self) -> tuple[bool, dict[str, Any]]:
        """The probe's answer, with what is stuck and for how many seconds longer than it may be."""
        now = self._clock()
        late = {loop: now - due for loop, due in self._due.items() if now > due}
        for what, (seconds, at_most) in self._measured.items():
            over = seconds() - at_most
            if over > 0:
                late[what] = over
        return not late, {"stuck": {what: round(over, 1) for what, over in late.items()}} if late else {}


class WatchProgress:
    """How long the watch has owed a change that is known otherwise (from a list, or the answer to a write).

    kopf opens a silent watch again by itself after 70 s, and the sweep lists in any case, so this is about a
    watch that stays silent: its task is stuck, or something between here and the API server swallows it.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._watched = 0
        self._owed: tuple[int, float] | None = None

    def watched(self, version: int) -> None:
        """The watch brought an object of this resource version."""
        self._watched = max(self._watched, version)
        if self._owed is not None and self._watched >= self._owed[0]:
            self._owed = None

    def known(self, newest: int) -> None:
        """The newest version of the objects that are there, however it became known."""
        if self._owed is not None and newest < self._owed[0]:
            # What was owed has been deleted since.
            self._owed = None
        if self._owed is None and newest > self._watched:
            self._owed = (newest, self._clock())

    def behind_seconds(self) -> float:
        """For how long it has owed something; 0 when it owes nothing."""
        return self._clock() - self._owed[1] if self._owed is not None else 0.0
