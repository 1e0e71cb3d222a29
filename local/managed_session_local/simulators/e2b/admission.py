"""Who may start a sandbox now: creation rate and concurrency."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from managed_session_local.simulators.e2b.errors import ApiError
from managed_session_local.simulators.e2b.ledger import Ledger
from managed_session_local.simulators.e2b.settings import Settings


class Admission:
    """A token bucket for creations and reservations for sandboxes that are not running yet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._reserved = 0
        self._tokens: float | None = None
        self._counted_at = 0.0
        self.active = 0

    @property
    def concurrent(self) -> int:
        """Sandboxes that count against the limit."""
        return self.active + self._reserved

    def check_rate(self, settings: Settings) -> None:
        """Take a creation token. Raises ApiError 429 with Retry-After."""
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
                "Rate limit exceeded, please try again later",
                headers={
                    "Retry-After": str(wait),
                    "RateLimit-Limit": str(settings.creation_burst),
                    "RateLimit-Remaining": "0",
                    "RateLimit-Reset": str(wait),
                },
            )
        self._tokens = tokens - 1

    @contextmanager
    def reserve(self, settings: Settings) -> Iterator[None]:
        """Hold a place while a sandbox starts. Raises ApiError 429 when there is none."""
        limit = settings.max_concurrent_sandboxes
        if self.concurrent >= limit:
            self._ledger.count("concurrency_limited")
            raise ApiError(
                429,
                f"You have reached the maximum number of concurrent E2B sandboxes ({limit}). If you need "
                "more, please contact us at 'https://e2b.dev/docs/getting-help'",
            )
        self._reserved += 1
        self._ledger.observe_concurrency(self.concurrent)
        try:
            yield
        finally:
            self._reserved -= 1
