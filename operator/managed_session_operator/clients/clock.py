"""Reads the system's clocks."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """The system's clocks."""

    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the time of a monotonic clock in seconds."""
        return time.monotonic()
