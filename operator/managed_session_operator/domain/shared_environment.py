"""Detects another installation or worker that serves the same environment, and warns about it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

logger = logging.getLogger(__name__)

_IN_A_ROW = 3
"""Answers in a row that must count several workers. Anthropic counts one for 30 s after its last poll."""


class SharedEnvironmentDetector:
    """Collects signs that another installation or worker serves our environment, and warns about it.

    Args:
        report: called with whether the environment is shared, for the gauge.
        warn: called with the warning for people.
    """

    def __init__(self, report: Callable[[bool], None], warn: Callable[[str], None]) -> None:
        self._report = report
        self._warn = warn
        self._crowded = 0
        self._foreign: dict[str, datetime] = {}
        self._certain: set[str] = set()
        self._reported = False

    def polled(self, workers: int | None) -> None:
        """Note the number of workers that poll the queue, including ourselves; None if it is unknown."""
        if workers is None:
            return
        self._crowded = self._crowded + 1 if workers > 1 else 0
        self._update(f"{workers} workers poll the environment's queue.")

    def listed(self, foreign: set[str], asked_at: datetime) -> None:
        """Note the IDs of items in one work list that are served although no resource of ours claims them."""
        self._foreign = {work_id: self._foreign.get(work_id, asked_at) for work_id in foreign}
        self._certain = {work_id for work_id, since in self._foreign.items() if since < asked_at}
        self._update(f"Another worker serves the work items {', '.join(sorted(self._certain)[:3])}.")

    def clear(self) -> None:
        """Forget all signs, because this process no longer leads."""
        self._crowded, self._foreign, self._certain, self._reported = 0, {}, set(), False
        self._report(False)

    def _update(self, sign: str) -> None:
        shared = self._crowded >= _IN_A_ROW or bool(self._certain)
        self._report(shared)
        if shared and not self._reported:
            logger.warning("another installation or worker serves the same environment", extra={"sign": sign})
            self._warn(
                f"Another installation or worker serves the same environment, which is not supported. {sign}"
            )
        elif self._reported and not shared:
            logger.info("the environment is no longer shared")
        self._reported = shared
