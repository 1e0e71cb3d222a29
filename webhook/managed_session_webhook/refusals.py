"""Log lines for refused requests, few enough that nobody can fill a disk with them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from managed_session_webhook.metrics import Outcome

_logger = logging.getLogger(__name__)


class RefusalLog:
    """Logs at most `lines` refusals of a kind per `period_seconds`, and how many were left out."""

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
        """Log one refusal with its reason, which must hold nothing of an unproven request's content."""
        now = self._clock()
        began, count = self._since.get(outcome, (now, 0))
        if now - began >= self._period_seconds:
            if count > self._lines:
                _logger.warning("%d more requests refused as %s", count - self._lines, outcome.value)
            began, count = now, 0
        self._since[outcome] = (began, count + 1)
        if count < self._lines:
            _logger.warning("refused: %s", reason, extra={"outcome": outcome.value, **fields})
