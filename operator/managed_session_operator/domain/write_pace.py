"""Limits how many writes per second a change causes that concerns thousands of resources. Pure."""

from __future__ import annotations

import zlib

_RATE = 50.0
"""Writes per second."""
_SPREAD_SECONDS = 20.0


class WritePace:
    """Allows up to a second's writes at once, and then as many as the rate.

    Args:
        rate: writes per second.
    """

    def __init__(self, rate: float = _RATE) -> None:
        self._rate = rate
        self._left = rate
        self._at = float("-inf")

    def wait(self, name: str, now: float) -> float | None:
        """Return None if the resource may be written now, else the seconds after which to ask again.

        Args:
            name: the resource's name. Resources ask again at different times.
            now: the time of a monotonic clock in seconds.
        """
        self._left = min(self._rate, self._left + (now - max(self._at, now - 1.0)) * self._rate)
        self._at = now
        if self._left >= 1.0:
            self._left -= 1.0
            return None
        return 1.0 + zlib.crc32(name.encode()) % 1000 / 1000 * _SPREAD_SECONDS
