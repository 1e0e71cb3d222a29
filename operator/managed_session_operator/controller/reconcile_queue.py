"""Queues the names of resources to reconcile.

A name is in the queue at most once, and at most one task reconciles it at a time. It may be added with a
delay. The number of concurrent tasks is limited. What changes goes before what is only looked at again, so
that offered work need not wait until a new leader has looked at thousands of resources at rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

Reconcile = Callable[[str], Awaitable[float | None]]
"""Reconciles the named resource. Returns the seconds after which to reconcile it again, if any."""

_MOST_PASSED = 10
"""How many keys in a row may go before one that is only looked at again, so that its turn comes too."""


class ReconcileQueue:
    """The queue, and the tasks that work on it. Belongs to one event loop.

    Args:
        concurrency: maximum number of concurrent tasks.
    """

    def __init__(self, *, concurrency: int) -> None:
        self._concurrency = concurrency
        self._ready: deque[str] = deque()
        self._behind: OrderedDict[str, None] = OrderedDict()
        self._passed = 0
        self._waiting: set[str] = set()
        self._active: dict[str, float] = {}
        self._again: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready) + len(self._behind)

    @property
    def active(self) -> int:
        """Number of reconciliations that are running."""
        return len(self._active)

    def longest(self) -> float:
        """Return for how many seconds the oldest running reconciliation has run."""
        return time.monotonic() - min(self._active.values()) if self._active else 0.0

    def add(self, key: str) -> None:
        """Have `key` reconciled as soon as possible."""
        self._cancel_timer(key)
        self._behind.pop(key, None)
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._wake.set()

    def add_behind(self, key: str) -> None:
        """Have `key` reconciled after those that were added by `add`, but for one in ten of those."""
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            # A timer of the key stays: it may be due earlier.
            self._behind[key] = None
            self._wake.set()

    def _cancel_timer(self, key: str) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def add_after(self, key: str, delay: float) -> None:
        """Have `key` reconciled in `delay` seconds, unless it is due earlier."""
        if key in self._waiting or key in self._again or key in self._behind:
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
        """Remove all waiting keys."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._ready.clear()
        self._behind.clear()
        self._waiting.clear()
        self._again.clear()

    async def run(self, reconcile: Reconcile) -> None:
        """Reconcile until cancelled, which also cancels running reconciliations."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                while len(self) and len(self._active) < self._concurrency:
                    key = self._next()
                    self._active[key] = time.monotonic()
                    tasks.create_task(self._work(key, reconcile), name=f"reconcile-{key}")
                self._wake.clear()
                await self._wake.wait()

    def _next(self) -> str:
        self._passed += 1
        if self._ready and not (self._behind and self._passed > _MOST_PASSED):
            key = self._ready.popleft()
            self._waiting.discard(key)
            return key
        self._passed = 0
        key, _ = self._behind.popitem(last=False)
        self._cancel_timer(key)
        return key

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
