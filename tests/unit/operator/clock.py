"""A clock that tests set."""

from __future__ import annotations


class Clock:
    """A monotonic clock whose `now` a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
