"""Bounds how many tool calls run at the same time, and lets some of them run alone."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class CallSlots:
    """Admits calls in the order in which they come; a call that has to run alone waits for all others to end.

    Args:
        most: How many calls may run at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = self._free = most
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, *, alone: bool = False) -> AsyncIterator[None]:
        """Wait for a slot (or for all of them), and hold it during the body."""
        slots = self._most if alone else 1
        await self._take(slots)
        try:
            yield
        finally:
            self._give_back(slots)

    async def _take(self, slots: int) -> None:
        if not self._waiting and self._free >= slots:
            self._free -= slots
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((slots, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():
                self._waiting.remove((slots, admitted))
                self._give_back(0)
            else:
                self._give_back(slots)
            raise

    def _give_back(self, slots: int) -> None:
        self._free += slots
        while self._waiting and self._waiting[0][0] <= self._free:
            if self._waiting[0][1].cancelled():
                return  # Its task removes it, and comes here again.
            taken, admitted = self._waiting.popleft()
            self._free -= taken
            admitted.set_result(None)
