"""Runs steps concurrently, so that they fail as one."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def gather_or_cancel(*work: Coroutine[Any, Any, Any]) -> None:
    """Run all steps at once. The first error cancels the others and is raised itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
