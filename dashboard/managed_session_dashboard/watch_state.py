"""Knows whether the board is up to date: for readiness, metrics and the page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from managed_session_dashboard.kind_watch import KindWatch
from managed_session_dashboard.metrics import DashboardMetrics


class WatchState:
    """The state of all watches together.

    Args:
        metrics: counts failures.
        wake: called when the state has changed.
    """

    def __init__(self, metrics: DashboardMetrics, wake: Callable[[], None]) -> None:
        self.watches: Sequence[KindWatch] = ()
        self._metrics = metrics
        self._wake = wake

    def watch_failed(self, plural: str) -> None:
        """A list or a watch has failed."""
        self._metrics.watch_failed(plural)
        self._wake()

    def watch_runs(self, plural: str) -> None:
        """A list was read, or a watch has begun."""
        self._metrics.add_kind(plural)
        self._wake()

    def to_json(self) -> dict[str, Any]:
        """Return what the page shows: whether everything was read, and what is wrong since when."""
        broken = [watch for watch in self.watches if watch.problem is not None]
        since = min((watch.problem_since or 0.0 for watch in broken), default=None)
        return {
            "synced": all(watch.synced for watch in self.watches),
            "problem": broken[0].problem if broken else None,
            "since": since,
        }

    def check(self, stop: asyncio.Event) -> tuple[bool, dict[str, Any]]:
        """Return the response for /readyz: ready once everything was read, until the process stops.

        A pod that has lost the API server stays ready: its page says so, and shows the last known state.
        """
        if stop.is_set():
            return False, {"reason": "shutting down"}
        waiting = [watch.plural for watch in self.watches if not watch.synced]
        problems = sorted({watch.problem for watch in self.watches if watch.problem is not None})
        detail: dict[str, Any] = {"problems": problems} if problems else {}
        return not waiting, {**detail, **({"notRead": waiting} if waiting else {})}
