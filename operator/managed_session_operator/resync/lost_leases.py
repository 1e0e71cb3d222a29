"""Finds workers that have lost their lease and whose end nobody has reported."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.user_wait import is_paused
from managed_session_operator.domain.work_item import WorkItem, WorkList


class LostLeases:
    """Finds claims whose worker has started although two work lists in a row show the item queued or stopped.

    Usually the worker's stream or the queue's next offer shows this much earlier. Neither does if the stream
    hangs, or if the worker hangs and no slot is free, so that the queue is not polled.
    """

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    def found(
        self, resources: Iterable[ManagedSession], items: WorkList
    ) -> list[tuple[ManagedSession, WorkItem]]:
        """Note what a list shows. Return the resources of which the list before showed it too, with items."""
        before, self._since = self._since, {}
        lost = []
        for resource in resources:
            work, item = resource.status.work, items.of_session(resource.spec.session_id)
            if work.claim is None or work.first_heartbeat_at is None or not claim_active(resource):
                continue
            if work.serving_late_since is not None:
                # It serves late and needs no lease. It ends by itself when its session's work is queued
                # again.
                continue
            if is_paused(resource):
                # It is frozen while its user is awaited, and its item may well be queued.
                continue
            if item is None or item.state not in ("queued", "stopped"):
                continue
            if items.asked_at <= work.first_heartbeat_at:
                continue
            self._since[work.claim] = before.get(work.claim, items.asked_at)
            if self._since[work.claim] < items.asked_at:
                lost.append((resource, item))
        return lost
