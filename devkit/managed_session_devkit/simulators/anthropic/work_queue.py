"""The work queue of one environment.

The behaviour follows the SDK's types and comments (`resources/beta/environments/work.py`,
`lib/environments/_worker.py`) and SDK issue 1746: an acknowledged item leaves the queue. It only comes back
if a lease lapses after a first heartbeat, or as a new entry after a stop.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Literal

from managed_session_devkit.simulators.anthropic.errors import APIError
from managed_session_devkit.simulators.anthropic.identifiers import new_id
from managed_session_devkit.simulators.anthropic.settings import WorkSettings
from managed_session_devkit.simulators.anthropic.work_item import WorkItem
from managed_session_devkit.simulators.common.times import timestamp

NO_HEARTBEAT = "NO_HEARTBEAT"
_WORKER_WINDOW_SECONDS = 30

Change = Literal["enqueued", "offered", "acked", "claimed", "conflict", "stopping", "stopped", "lapsed"]


class WorkQueue:
    """The items of one environment. Not thread-safe; it belongs to one event loop."""

    def __init__(
        self,
        environment_id: str,
        settings: Callable[[], WorkSettings],
        *,
        is_gone: Callable[[WorkItem], bool],
        is_idle: Callable[[WorkItem], bool],
        observe: Callable[[WorkItem, Change], None],
    ) -> None:
        self.environment_id = environment_id
        self._settings = settings
        self._is_gone = is_gone
        self._is_idle = is_idle
        self._observe = observe
        self.items: dict[str, WorkItem] = {}
        self._by_session: dict[str, WorkItem] = {}
        self._ready: OrderedDict[str, WorkItem] = OrderedDict()
        self._pending: OrderedDict[str, WorkItem] = OrderedDict()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._workers: dict[str, float] = {}

    def enqueue(self, item: WorkItem) -> WorkItem:
        """Put an item at the end of the queue."""
        self.items[item.id] = item
        self._by_session[item.data_id] = item
        self._ready[item.id] = item
        self._observe(item, "enqueued")
        self._wake()
        return item

    def enqueue_session(self, session_id: str) -> WorkItem | None:
        """Queue the session's one item, and return it. Return None if it is queued or held already."""
        item = self.of_session(session_id)
        if item is None:
            work_id = session_id if self._settings().item_ids == "session" else new_id("work")
            return self.enqueue(WorkItem(work_id, self.environment_id, "session", session_id))
        if item.state != "stopped":
            return None
        item.renew()
        return self.enqueue(item)

    def enqueue_healthcheck(self) -> WorkItem:
        """Queue a health check."""
        return self.enqueue(WorkItem(new_id("work"), self.environment_id, "healthcheck", new_id("hc")))

    def of_session(self, session_id: str) -> WorkItem | None:
        """Return the session's item."""
        return self._by_session.get(session_id)

    async def poll(
        self, block_ms: int | None, reclaim_older_than_ms: int | None, worker_id: str
    ) -> WorkItem | None:
        """Offer an unacknowledged item older than the window, else the oldest queued one.

        Raises:
            APIError: 400 for ``block_ms`` outside 1-999; 404 for an entry whose session is gone, which
                removes the entry.
        """
        if block_ms is not None and not 1 <= block_ms <= 999:
            raise APIError(400, "block_ms: must be between 1 and 999")
        if reclaim_older_than_ms is not None and reclaim_older_than_ms < 0:
            raise APIError(400, "reclaim_older_than_ms: must not be negative")
        if worker_id:
            self._workers[worker_id] = time.monotonic()
        window = (
            self._settings().reclaim_older_than_ms if reclaim_older_than_ms is None else reclaim_older_than_ms
        )
        item = self._reclaim(window / 1000) or self._next_ready()
        deadline = time.monotonic() + (block_ms or 0) / 1000
        while item is None and (left := deadline - time.monotonic()) > 0:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await asyncio.wait_for(waiter, left)
            except TimeoutError:
                break
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
            item = self._next_ready()
        return None if item is None else self._offer(item)

    def _offer(self, item: WorkItem) -> WorkItem:
        if self._is_gone(item):
            self.forget(item)
            raise APIError(404, f"EnvironmentInstance not found for session {item.data_id}")
        item.offered_at = time.monotonic()
        item.offers += 1
        self._pending[item.id] = item
        self._observe(item, "offered")
        return item

    def _reclaim(self, window_seconds: float) -> WorkItem | None:
        # Offers are ordered by time. If the first is too young, all are.
        for item in self._pending.values():
            if item.offered_at is not None and time.monotonic() - item.offered_at >= window_seconds:
                del self._pending[item.id]
                return item
            break
        return None

    def _next_ready(self) -> WorkItem | None:
        return self._ready.popitem(last=False)[1] if self._ready else None

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _remove_from_queue(self, item: WorkItem) -> None:
        self._ready.pop(item.id, None)
        self._pending.pop(item.id, None)

    def forget(self, item: WorkItem) -> None:
        """Remove an item completely."""
        item.drop_lease()
        self._remove_from_queue(item)
        self.items.pop(item.id, None)
        self._by_session.pop(item.data_id, None)

    def get(self, work_id: str) -> WorkItem:
        """Return an item. Raises APIError 404."""
        item = self.items.get(work_id)
        if item is None:
            raise APIError(404, f"Work {work_id} not found")
        return item

    def ack(self, work_id: str) -> WorkItem:
        """Acknowledge an item, which leaves the queue. Raises APIError 404, or 409 if it is not queued."""
        item = self.get(work_id)
        if item.state != "queued":
            raise APIError(409, f"Work {work_id} cannot be acknowledged in state {item.state}")
        self._remove_from_queue(item)
        item.state = "starting"
        item.acknowledged_at = timestamp()
        item.acknowledged_monotonic = time.monotonic()
        self._observe(item, "acked")
        return item

    def heartbeat(
        self, work_id: str, expected: str | None, desired_ttl: int | None, holder: str
    ) -> dict[str, Any]:
        """Record a heartbeat and extend the lease.

        Raises:
            APIError: 404 if it is unknown; 412 if ``expected`` is not the stored heartbeat, or the item is
                queued.
        """
        item = self.get(work_id)
        if item.state == "stopped":
            return self._beat(item, extended=False)
        if item.state != "stopping":
            stored = item.latest_heartbeat_at or NO_HEARTBEAT
            if item.state == "queued" or (expected is not None and expected != stored):
                self._observe(item, "conflict")
                raise _precondition_failed(item, self._settings().lease_ttl_seconds)
        settings = self._settings()
        wanted = settings.lease_ttl_seconds if desired_ttl is None else desired_ttl
        item.ttl_seconds = max(1, min(wanted, settings.max_lease_ttl_seconds))
        first = item.lease_holder is None
        item.drop_lease()
        item.lease_holder = holder
        item.latest_heartbeat_at = timestamp()
        item.lease_timer = asyncio.get_running_loop().call_later(item.ttl_seconds, self.lapse, item)
        if item.state == "starting":
            item.state = "active"
            item.started_at = item.latest_heartbeat_at
        if first:
            self._observe(item, "claimed")
        return self._beat(item, extended=True)

    def _beat(self, item: WorkItem, *, extended: bool) -> dict[str, Any]:
        return {
            "type": "work_heartbeat",
            "last_heartbeat": item.latest_heartbeat_at or "",
            "lease_extended": extended,
            "state": item.state,
            "ttl_seconds": item.ttl_seconds or self._settings().lease_ttl_seconds,
        }

    def lapse(self, item: WorkItem) -> None:
        """End the lease. An active item is queued again, or stops by the settings; a stopping one stops."""
        if item.lease_holder is None:
            return
        item.drop_lease()
        stops = self._settings().lapse_while_idle == "stop" and self._is_idle(item)
        if item.state == "stopping" or stops:
            self._to_stopped(item)
            return
        item.reset_to_queued()
        self._observe(item, "lapsed")
        self._ready[item.id] = item
        self._wake()

    def stop(self, work_id: str, *, force: bool) -> WorkItem:
        """Stop an item. It is ``stopping`` until its worker confirms; with ``force`` it stops at once.

        Raises:
            APIError: 404 if it is unknown; 409 if it has stopped already.
        """
        item = self.get(work_id)
        if item.state == "stopped":
            raise APIError(409, f"Work {work_id} is already stopped")
        item.stop_requested_at = item.stop_requested_at or timestamp()
        if force or item.state == "queued":
            self._to_stopped(item)
        elif item.state != "stopping":
            item.state = "stopping"
            self._observe(item, "stopping")
        return item

    def _to_stopped(self, item: WorkItem) -> None:
        self._remove_from_queue(item)
        item.drop_lease()
        item.state = "stopped"
        item.stopped_at = timestamp()
        self._observe(item, "stopped")

    def session_deleted(self, session_id: str) -> None:
        """Handle a deleted session: stop a held item. A queued entry stays, and a poll of it answers 404."""
        item = self.of_session(session_id)
        if item is not None and item.state not in ("queued", "stopped"):
            self._to_stopped(item)

    def stats(self) -> dict[str, Any]:
        """Return `BetaSelfHostedWorkQueueStats`."""
        since = time.monotonic() - _WORKER_WINDOW_SECONDS
        self._workers = {worker: at for worker, at in self._workers.items() if at >= since}
        waiting = [*self._ready.values(), *self._pending.values()]
        return {
            "type": "work_queue_stats",
            "depth": len(self._ready),
            "pending": len(self._pending),
            "oldest_queued_at": min((item.created_at for item in waiting), default=None),
            "workers_polling": len(self._workers),
        }

    def close(self) -> None:
        """Cancel all timers, and end every poll that waits."""
        while self._waiters:
            self._wake()
        for item in self.items.values():
            item.drop_lease()


def _precondition_failed(item: WorkItem, default_ttl: int) -> APIError:
    return APIError(
        412,
        "expected_last_heartbeat does not match the stored heartbeat",
        details={
            "error_code": "heartbeat_precondition_failed",
            "current_state": {
                "last_heartbeat": item.latest_heartbeat_at,
                "lease_extended": False,
                "state": item.state,
                "ttl_seconds": item.ttl_seconds or default_ttl,
            },
        },
    )
