"""Workers that do not hold their work item any more, and whose end nobody tells us of."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from managed_session_api.resource import ManagedSession

from managed_session_operator.decisions import claim_active
from managed_session_operator.work_list import WorkItem, WorkList


class LostLeases:
    """Claims whose worker has begun and whose item is queued again or stopped, in two work lists in a row.

    Mostly the worker's end or the queue's next offer has told of it long before. Neither comes where the
    stream from the sandbox hangs, or where the worker does and there is no place to ask the queue for work.
    """

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    def found(
        self, resources: Iterable[ManagedSession], items: WorkList
    ) -> list[tuple[ManagedSession, WorkItem]]:
        """Note what a list shows; the resources of which the last one has shown it too, with their items."""
        before, self._since = self._since, {}
        lost = []
        for resource in resources:
            work, item = resource.status.work, items.of_session(resource.spec.session_id)
            if work.claim is None or work.first_heartbeat_at is None or not claim_active(resource):
                continue
            if item is None or item.state not in ("queued", "stopped"):
                continue
            if items.asked_at <= work.first_heartbeat_at:
                continue
            self._since[work.claim] = before.get(work.claim, items.asked_at)
            if self._since[work.claim] < items.asked_at:
                lost.append((resource, item))
        return lost
