"""The keyed queue between events and reconciles.

A key is a resource's name. A key waits at most once, is worked on by at most one reconcile at a time, and
may be asked for again after a delay; the number of reconciles at once is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

Reconcile = Callable[[str], Awaitable[float | None]]
"""Brings one resource a step further; returns the seconds after which it wants to be looked at again."""


class ReconcileQueue:
    """Lives on one event loop.

    Args:
        concurrency: reconciles at once.
    """

    def __init__(self, *, concurrency: int) -> None:
        self._concurrency = concurrency
        self._ready: deque[str] = deque()
        self._waiting: set[str] = set()
        self._active: dict[str, float] = {}
        self._again: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def active(self) -> int:
        """Reconciles that are running."""
        return len(self._active)

    def longest(self) -> float:
        """For how many seconds the oldest of the running reconciles has run."""
        return time.monotonic() - min(self._active.values()) if self._active else 0.0

    def add(self, key: str) -> None:
        """Have `key` looked at as soon as possible."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: str, delay: float) -> None:
        """Have `key` looked at in `delay` seconds, unless it is due earlier."""
        if key in self._waiting or key in self._again:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._due, key)

    def _due(self, key: str) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def clear(self) -> None:
        """Forget all that waits."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._ready.clear()
        self._waiting.clear()
        self._again.clear()

    async def run(self, reconcile: Reconcile) -> None:
        """Work until cancelled; running reconciles are cancelled then too."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                while self._ready and len(self._active) < self._concurrency:
                    key = self._ready.popleft()
                    self._waiting.discard(key)
                    self._active[key] = time.monotonic()
                    tasks.create_task(self._work(key, reconcile), name=f"reconcile-{key}")
                self._wake.clear()
                await self._wake.wait()

    async def _work(self, key: str, reconcile: Reconcile) -> None:
        delay: float | None = None
        try:
            delay = await reconcile(key)
        except Exception:
            logger.exception("reconcile failed unexpectedly", extra={"resource": key})
            delay = 5.0
        finally:
            self._active.pop(key, None)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            elif delay is not None:
                self.add_after(key, delay)
            self._wake.set()
