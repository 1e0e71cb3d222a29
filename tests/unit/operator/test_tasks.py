from __future__ import annotations

import asyncio

import pytest
from managed_session_operator.controller.tasks import run_until_first_exit


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_task_that_swallows_a_cancellation_ends_nevertheless() -> None:
    began, swallowed = asyncio.Event(), 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                began.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 1:
                    raise

    running = asyncio.create_task(run_until_first_exit(stubborn=stubborn(), other=forever()))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)
    assert swallowed == 2


async def test_an_error_of_one_task_ends_the_others_and_is_raised() -> None:
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await forever()
        finally:
            ended.set()

    async def failing() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await run_until_first_exit(other=other(), failing=failing())
    assert ended.is_set()
