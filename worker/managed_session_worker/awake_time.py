"""Time limits that do not run while the sandbox is paused.

To stopped processes and to some resumed machines all clocks jump by the length of the pause. So time is
counted in short steps, and a step counts as no longer than it was meant to be.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

STEP_SECONDS = 0.5

T = TypeVar("T")


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """Return what `awaitable` returns, unless it takes longer than `seconds`, pauses not counted.

    Raises:
        TimeoutError: It took longer, and was cancelled.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        while not task.done():
            if seconds <= 0:
                raise TimeoutError
            began, step = time.monotonic(), min(seconds, STEP_SECONDS)
            await asyncio.wait({task}, timeout=step)
            seconds -= min(time.monotonic() - began, step)
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
