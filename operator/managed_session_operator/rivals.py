"""Whether somebody else serves the same environment: unsupported, so it is only noticed and said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from managed_session_operator.metrics import Metrics

logger = logging.getLogger(__name__)

_IN_A_ROW = 3
"""Questions in a row that must count more than one poller: one that is just gone is counted for 30 s more."""


class Rivals:
    """Signs of another installation or worker on our environment, and the warning about them.

    Args:
        metrics: has the gauge.
        warn: posts the warning for people.
    """

    def __init__(self, metrics: Metrics, warn: Callable[[str], None]) -> None:
        self._metrics = metrics
        self._warn = warn
        self._crowded = 0
        self._foreign: dict[str, datetime] = {}
        self._certain: set[str] = set()
        self._said = False

    def polled(self, workers: int | None) -> None:
        """Take the number of workers that poll the queue, ourselves included; None where it is not said."""
        if workers is None:
            return
        self._crowded = self._crowded + 1 if workers > 1 else 0
        self._tell(f"{workers} workers poll the environment's queue")

    def listed(self, foreign: set[str], asked_at: datetime) -> None:
        """Take the work that is served and that no resource of ours claims, from one work list."""
        self._foreign = {work_id: self._foreign.get(work_id, asked_at) for work_id in foreign}
        self._certain = {work_id for work_id, since in self._foreign.items() if since < asked_at}
        self._tell(f"work {', '.join(sorted(self._certain)[:3])} is served and not by us")

    def clear(self) -> None:
        """Know nothing, as a process does that leads no more."""
        self._crowded, self._foreign, self._certain, self._said = 0, {}, set(), False
        self._metrics.environment_shared.set(0)

    def _tell(self, sign: str) -> None:
        shared = self._crowded >= _IN_A_ROW or bool(self._certain)
        self._metrics.environment_shared.set(1 if shared else 0)
        if shared and not self._said:
            logger.warning("somebody else serves the same environment", extra={"sign": sign})
            self._warn(f"somebody else serves the same environment, which is not supported: {sign}")
        elif self._said and not shared:
            logger.info("nobody else serves the environment any more")
        self._said = shared
