"""Holds what this process knows of the classes: the classes themselves, and what their sessions use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from managed_session_api.session_class import ClassActivity, ManagedSessionClass

from managed_session_operator.domain.class_budget import ClassLedger, ClassUsage, usage_by_class
from managed_session_operator.domain.class_cache import ClassCache
from managed_session_operator.domain.resource_summary import ResourceSummary

_FRESH_SECONDS = 2.0


class ClassBoard:
    """The classes of the namespace, with the use that was last counted. Belongs to one event loop."""

    def __init__(self) -> None:
        self.cache = ClassCache()
        self.usage: dict[str, ClassUsage] = {}
        self.activities: dict[str, ClassActivity] = {}
        self._ledger = ClassLedger()
        self._counted_at = float("-inf")

    def count(
        self,
        sessions: Iterable[ResourceSummary],
        waiting: Mapping[str, int],
        now: datetime,
        monotonic: float,
    ) -> None:
        """Count what the sessions of each class use.

        Args:
            sessions: all sessions.
            waiting: number of sessions that wait for a slot, by class.
            now: the time.
            monotonic: the time of a monotonic clock in seconds.
        """
        self.usage = usage_by_class(sessions, waiting, now)
        self.activities = {
            each.metadata.name: self._ledger.account(
                each, self.usage.get(each.metadata.name, ClassUsage()), now
            )
            for each in self.cache.all()
        }
        self._counted_at = monotonic

    def is_counted(self, monotonic: float) -> bool:
        """Return whether the last count is fresh enough to decide on."""
        return monotonic - self._counted_at < _FRESH_SECONDS

    def is_spent(self, each: ManagedSessionClass) -> bool:
        """Return whether the class has used up its budget of today, as of the last count."""
        limit, used = each.spec.limits.max_active_seconds_per_day, self.activities.get(each.metadata.name)
        return limit is not None and used is not None and used.seconds >= limit

    def clear(self) -> None:
        """Forget what was counted, because this process no longer leads."""
        self.usage, self.activities = {}, {}
        self._ledger.clear()
        self._counted_at = float("-inf")
