"""Waiting for conditions in tests: nothing waits for a time to pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = 2.0
"""Limits are those of a quiet machine. A busy one gets this many times as long."""


async def eventually(what: str, look: Callable[[], Awaitable[T | None]], *, seconds: float = 60.0) -> T:
    """Look again and again until `look` gives something true; fail with `what` long after `seconds`."""
    began, limit = time.monotonic(), _PATIENCE * seconds
    while True:
        found = await look()
        if found:
            return found
        waited = time.monotonic() - began
        assert waited < limit, f"not within {limit:g} s: {what}"
        # Less often after a while: what is waited for needs the processors too.
        await asyncio.sleep(0.05 if waited < 1 else 0.2)


def wait_until(look: Callable[[], T | None], what: str = "the condition", *, seconds: float = 60.0) -> T:
    """The same for tests without an event loop: their conditions are about files and processes."""
    limit = _PATIENCE * seconds
    deadline = time.monotonic() + limit
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {limit:g} s: {what}"
        time.sleep(0.01)
