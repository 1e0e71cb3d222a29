"""Limits on starting sandboxes: creation rate and concurrency."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from managed_session_devkit.simulators.e2b.errors import ApiError
from managed_session_devkit.simulators.e2b.ledger import Ledger
from managed_session_devkit.simulators.e2b.settings import Settings

TakeTime = Callable[[], Awaitable[None]]
"""Waits until an operation has taken its latency, before it takes effect."""


async def no_time() -> None:
    """Wait for nothing: E2B's own countdown has no latency."""


class Admission:
    """A token bucket for creations, and reservations for sandboxes that do not run yet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._reserved = 0
        self._tokens: float | None = None
        self._counted_at = 0.0
        self._start_queue = asyncio.Condition()
        self._starting = 0
        self.active = 0

    @property
    def concurrent(self) -> int:
        """Number of sandboxes that count against the limit."""
        return self.active + self._reserved

    def check_rate(self, settings: Settings) -> None:
        """Take a creation token. Raises ApiError 429 with Retry-After if there is none."""
        rate = settings.creations_per_second
        if rate is None:
            self._tokens = None
            return
        moment = time.monotonic()
        burst = float(settings.creation_burst)
        tokens = (
            burst if self._tokens is None else min(burst, self._tokens + (moment - self._counted_at) * rate)
        )
        self._counted_at = moment
        if tokens < 1:
            self._tokens = tokens
            wait = math.ceil((1 - tokens) / rate)
            self._ledger.count("creation_rate_limited")
            raise ApiError(
                429,
                "Rate limit exceeded",
                headers={
                    "Retry-After": str(wait),
                    "RateLimit-Limit": str(settings.creation_burst),
                    "RateLimit-Remaining": "0",
                    "RateLimit-Reset": str(wait),
                },
            )
        self._tokens = tokens - 1

    @asynccontextmanager
    async def start(self, settings: Settings, *, resume: bool) -> AsyncIterator[None]:
        """Wait until the node can run one more start. A caller that leaves loses its queue position.

        Raises ApiError 503 if a resume has waited too long.
        """
        limit = settings.starts_at_once
        if limit is None:
            yield
            return
        try:
            async with asyncio.timeout(settings.resume_queue_seconds if resume else None), self._start_queue:
                await self._start_queue.wait_for(lambda: self._starting < limit)
                self._starting += 1
        except TimeoutError as error:
            raise ApiError(503, "The node is busy", error_code="sandbox_capacity_unavailable") from error
        try:
            yield
        finally:
            self._starting -= 1
            async with self._start_queue:
                self._start_queue.notify()

    @contextmanager
    def reserve(self, settings: Settings) -> Iterator[None]:
        """Reserve a slot while a sandbox starts. Raises ApiError 429 if there is none."""
        limit = settings.max_concurrent_sandboxes
        if self.concurrent >= limit:
            self._ledger.count("concurrency_limited")
            raise ApiError(
                429,
                f"you have reached the maximum number of concurrent E2B sandboxes ({limit}). If you need "
                "more, please contact us at 'https://e2b.dev/docs/getting-help'",
            )
        self._reserved += 1
        self._ledger.observe_concurrency(self.concurrent)
        try:
            yield
        finally:
            self._reserved -= 1
