"""Work that runs side by side and ends together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.5


async def side_by_side(**works: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends or fails, or this is cancelled; return when every one of them has ended.

    A library may swallow a cancellation, for instance when a time-out of its own comes in the same moment, as
    many do when a frozen process thaws. So who goes on is cancelled again: a leader that lost its Lease must
    not be left with half of its work.

    Args:
        works: by name.

    Raises:
        Exception: whatever the first to fail raised.
    """
    tasks = {asyncio.create_task(work, name=name) for name, work in works.items()}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _end(tasks)


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
        if pending:
            names = sorted(task.get_name() for task in pending)
            logger.warning("cancelled work goes on, and is cancelled again", extra={"tasks": names})
