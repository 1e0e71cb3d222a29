"""Runs coroutines that end together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.5


async def run_until_first_exit(**works: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends or fails, or this is cancelled. Then cancel the others and wait for them.

    A library may swallow a cancellation, for example if its own timeout expires at the same moment, as many
    do when a frozen process continues. So tasks that keep running are cancelled again: nothing of a leader
    may keep running after it has lost its Lease.

    Args:
        works: the coroutines, by name.

    Raises:
        Exception: the first error of a coroutine.
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
            logger.warning("cancelled work is still running; cancelling it again", extra={"tasks": names})
