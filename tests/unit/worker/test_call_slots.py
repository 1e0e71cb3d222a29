"""How many calls run at the same time, and which of them alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from managed_session_worker.call_slots import CallSlots


class Calls:
    """Calls that hold a slot until they are told to end."""

    def __init__(self, most: int) -> None:
        self._slots = CallSlots(most)
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.running: list[str] = []

    async def begin(self, name: str, *, alone: bool = False) -> None:
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._serve(name, alone))
        await self._settled()

    async def _serve(self, name: str, alone: bool) -> None:
        async with self._slots.hold(alone=alone):
            self.running.append(name)
            await self._ends[name].wait()
            self.running.remove(name)

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._settled()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await self._settled()

    async def cancel_as_it_is_admitted(self, name: str, end: Callable[[], object]) -> None:
        end()
        await asyncio.sleep(0)
        self._tasks[name].cancel()
        await self._settled()

    def ending(self, name: str) -> Callable[[], object]:
        return self._ends[name].set

    @staticmethod
    async def _settled() -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_calls_run_in_the_order_in_which_they_come_and_not_more_than_allowed() -> None:
    calls = Calls(2)
    for name in "abcd":
        await calls.begin(name)
    assert calls.running == ["a", "b"]
    await calls.end("b")
    assert calls.running == ["a", "c"]
    await calls.end("a")
    await calls.end("c")
    assert calls.running == ["d"]


async def test_a_call_that_runs_alone_waits_for_all_others_and_is_not_overtaken() -> None:
    calls = Calls(2)
    await calls.begin("a")
    await calls.begin("suspect", alone=True)
    await calls.begin("b")
    assert calls.running == ["a"]
    await calls.end("a")
    assert calls.running == ["suspect"]
    await calls.end("suspect")
    assert calls.running == ["b"]


async def test_a_call_that_gives_up_waiting_holds_up_nobody() -> None:
    calls = Calls(2)
    await calls.begin("a")
    await calls.begin("suspect", alone=True)
    await calls.begin("b")
    await calls.cancel("suspect")
    assert calls.running == ["a", "b"]
    await calls.begin("c")
    await calls.cancel_as_it_is_admitted("c", calls.ending("a"))
    await calls.begin("d")
    assert calls.running == ["b", "d"]
