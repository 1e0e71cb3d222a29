"""Defines the environment's work list and its items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class WorkItem:
    """An item of the work list (`BetaSelfHostedWork` without its secret).

    Attributes:
        work_id: the item's ID. In practice it equals the session's ID.
        session_id: the session to serve; None for other kinds of work.
        state: queued, starting (acknowledged), active (has had a heartbeat), stopping or stopped.
        created_at: when it was queued.
        acknowledged_at: when it was acknowledged.
        latest_heartbeat_at: when its worker last sent a heartbeat.
    """

    work_id: str
    session_id: str | None
    state: str
    created_at: datetime
    acknowledged_at: datetime | None = None
    latest_heartbeat_at: datetime | None = None

    @property
    def unstarted(self) -> bool:
        """Whether it was acknowledged and never had a heartbeat. The queue does not offer it again."""
        return self.state == "starting" and self.latest_heartbeat_at is None


class WorkList:
    """The work list as it was read once.

    Args:
        items: the items, in the order of the list.
        asked_at: when the list was requested. Later changes may be missing.
    """

    def __init__(self, items: Iterable[WorkItem], asked_at: datetime) -> None:
        self.items = tuple(items)
        self.asked_at = asked_at
        self._by_session: dict[str, WorkItem] = {}
        for item in sorted(self.items, key=lambda item: (item.state != "stopped", item.created_at)):
            if item.session_id is not None:
                self._by_session[item.session_id] = item

    def positions(
        self, served: Callable[[str], bool], class_of: Callable[[str], str] = lambda _: ""
    ) -> dict[str, int]:
        """Return the position of each waiting session in its class's queue: from 1, oldest first.

        Args:
            served: whether a session has a slot already.
            class_of: returns the name of a session's class.
        """
        queued = sorted(
            (item.created_at, item.session_id)
            for item in self._by_session.values()
            if item.state == "queued" and item.session_id is not None
        )
        waiting, positions = Counter[str](), {}
        for _, session_id in queued:
            if not served(session_id):
                class_name = class_of(session_id)
                waiting[class_name] += 1
                positions[session_id] = waiting[class_name]
        return positions

    def of_session(self, session_id: str) -> WorkItem | None:
        """Return the session's item. If it has several, return the newest one that is not stopped."""
        return self._by_session.get(session_id)


@dataclass(frozen=True)
class HealthCheck:
    """An item with which Anthropic checks that somebody polls. It is acknowledged and stopped."""

    work_id: str
