"""The creation rate: a limited number per second, in the order of the wait queue."""

from __future__ import annotations

import asyncio
import time

from managed_session_operator.capacity.creation_rate import CreationRate

from .examples import ago

RATE = 10.0
"""Low enough that all ask before the next creation is due, on a busy machine too."""


async def _create(rate: CreationRate, name: str, age: float, created: list[str]) -> None:
    wait = await rate.take(name, ago(age))
    while wait is not None:
        await asyncio.sleep(wait)
        wait = await rate.take(name, ago(age))
    created.append(name)


async def test_creations_keep_the_rate_and_go_by_age() -> None:
    rate = CreationRate(RATE, 1, lambda _: True)
    created: list[str] = []
    began = time.monotonic()
    assert await rate.take("first", ago(0)) is None
    async with asyncio.TaskGroup() as tasks:
        for number in range(8):
            tasks.create_task(_create(rate, f"aged-{number}", number, created))
    assert created == [f"aged-{number}" for number in reversed(range(8))]
    took = time.monotonic() - began
    assert took >= 0.9 * 8 / RATE


async def test_a_session_that_needs_no_sandbox_any_more_does_not_delay_the_others() -> None:
    wanted = {"old", "new"}
    rate = CreationRate(2.0, 1, wanted.__contains__)
    assert await rate.take("first", ago(0)) is None
    assert await rate.take("old", ago(10)) is not None
    wait = await rate.take("new", ago(5))
    assert wait is not None
    assert (rate.position("old"), rate.position("new")) == (1, 2)
    wanted.discard("old")
    await asyncio.sleep(wait)
    assert await rate.take("new", ago(5)) is None
    assert (rate.position("old"), rate.position("new")) == (None, None)
