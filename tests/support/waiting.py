"""Waiting for conditions in tests: nothing waits for a time to pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(what: str, look: Callable[[], Awaitable[T | None]], *, seconds: float = 60.0) -> T:
    """Look again and again until `look` gives something true; fail with `what` after `seconds`."""
    began = time.monotonic()
    while True:
        found = await look()
        if found:
            return found
        waited = time.monotonic() - began
        assert waited < seconds, f"not within {seconds:g} s: {what}"
        # Less often after a while: what is waited for needs the processors too.
        await asyncio.sleep(0.05 if waited < 1 else 0.2)


def wait_until(look: Callable[[], T | None], what: str = "the condition", *, seconds: float = 60.0) -> T:
    """The same for tests without an event loop: their conditions are about files and processes."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)
