"""Logs rejected requests, with a limit so that nobody can fill a disk with them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from managed_session_webhook.metrics import Outcome

logger = logging.getLogger(__name__)


class RejectionLog:
    """Logs at most `lines` rejections per outcome and `period_seconds`, and the number of further ones."""

    def __init__(
        self,
        *,
        lines: int = 20,
        period_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines = lines
        self._period_seconds = period_seconds
        self._clock = clock
        self._since: dict[Outcome, tuple[float, int]] = {}

    def log(self, outcome: Outcome, reason: str, fields: Mapping[str, str]) -> None:
        """Log a rejection. The reason must not contain anything from an unauthenticated request."""
        now = self._clock()
        began, count = self._since.get(outcome, (now, 0))
        if now - began >= self._period_seconds:
            if count > self._lines:
                logger.warning("%d more requests refused as %s", count - self._lines, outcome.value)
            began, count = now, 0
        self._since[outcome] = (began, count + 1)
        if count < self._lines:
            logger.warning("refused: %s", reason, extra={"outcome": outcome.value, **fields})
