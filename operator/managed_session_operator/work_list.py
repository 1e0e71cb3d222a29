"""The environment's work list, as the last sweep read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class WorkItem:
    """An item of the list (`BetaSelfHostedWork` without its secret).

    Attributes:
        work_id: the item's ID (in practice the session's).
        session_id: whose work it is; None for other kinds of work.
        state: queued, starting (acknowledged), active (heartbeated), stopping or stopped.
        created_at: when it was queued.
        acknowledged_at: when it was taken off the queue.
        latest_heartbeat_at: when a worker last held its lease.
    """

    work_id: str
    session_id: str | None
    state: str
    created_at: datetime
    acknowledged_at: datetime | None = None
    latest_heartbeat_at: datetime | None = None

    @property
    def unstarted(self) -> bool:
        """Acknowledged and never heartbeated: the queue offers it to nobody any more."""
        return self.state == "starting" and self.latest_heartbeat_at is None


class WorkList:
    """The items of one reading.

    Args:
        items: in the order of the list.
        asked_at: when it was asked for; what happened later may be missing in it.
    """

    def __init__(self, items: Iterable[WorkItem], asked_at: datetime) -> None:
        self.items = tuple(items)
        self.asked_at = asked_at
        self._by_session: dict[str, WorkItem] = {}
        for item in sorted(self.items, key=lambda item: (item.state != "stopped", item.created_at)):
            if item.session_id is not None:
                self._by_session[item.session_id] = item

    def positions(self, served: Callable[[str], bool]) -> dict[str, int]:
        """The place of each waiting session in the line, from 1 on, the one queued first.

        Args:
            served: whether a queued item's session has a sandbox's place already.
        """
        queued = sorted(
            (item.created_at, item.session_id)
            for item in self._by_session.values()
            if item.state == "queued" and item.session_id is not None
        )
        waiting = [session_id for _, session_id in queued if not served(session_id)]
        return {session_id: number for number, session_id in enumerate(waiting, 1)}

    def of_session(self, session_id: str) -> WorkItem | None:
        """The session's item; of several the newest that is not stopped, whatever their order in the list."""
        return self._by_session.get(session_id)
