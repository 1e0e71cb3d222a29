"""Detects worker streams whose other end is gone.

The command in the sandbox sends a ping every 10 s. E2B's proxies, a NAT or a pause may drop the stream
silently. E2B's own pings come only every 50 s, and the SDK hides them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

_SILENT_SECONDS = 30.0


class SilentStreamError(Exception):
    """The stream has been silent for so long that it counts as dead."""


@dataclass
class Pulse:
    """Time of the last event. Sandboxes of earlier templates send no pings and may be silent."""

    pings: bool = False
    last: float = 0.0

    def record(self, event: dict[str, Any]) -> None:
        """Record an event."""
        self.last = time.monotonic()
        self.pings = self.pings or event.get("event") == "ping"

    def seconds_left(self) -> float:
        """Return the seconds for which the silence may continue."""
        return self.last + _SILENT_SECONDS - time.monotonic() if self.pings else _SILENT_SECONDS


async def ended_or_silent(handle: Any, pulse: Pulse) -> Any:
    """Wait for the result of the command with this SDK handle.

    Raises:
        SilentStreamError: the pings have stopped.
    """
    ended = asyncio.ensure_future(handle.wait())
    try:
        while not ended.done():
            left = pulse.seconds_left()
            if left <= 0:
                raise SilentStreamError(f"The sandbox has sent nothing for {_SILENT_SECONDS:.0f} s.")
            await asyncio.wait({ended}, timeout=left)
        return ended.result()
    finally:
        ended.cancel()
