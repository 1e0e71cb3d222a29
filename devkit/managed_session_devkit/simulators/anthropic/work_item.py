"""One work item of a self-hosted environment."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from managed_session_devkit.simulators.common.times import timestamp

State = Literal["queued", "starting", "active", "stopping", "stopped"]


@dataclass
class WorkItem:
    """A work item (`BetaSelfHostedWork`), with the queue's own data about it.

    Attributes:
        offered_at: monotonic time of the newest offer, until it is acknowledged.
        offers: how often polls have returned the current queue entry.
        lease_timer: timer that lets the lease lapse.
        lease_holder: fingerprint of the credential whose worker holds the lease.
    """

    id: str
    environment_id: str
    data_type: Literal["session", "healthcheck"]
    data_id: str
    created_at: str = field(default_factory=timestamp)
    state: State = "queued"
    metadata: dict[str, str] = field(default_factory=dict)
    acknowledged_at: str | None = None
    started_at: str | None = None
    latest_heartbeat_at: str | None = None
    stop_requested_at: str | None = None
    stopped_at: str | None = None
    ttl_seconds: int = 0
    offered_at: float | None = None
    acknowledged_monotonic: float | None = None
    offers: int = 0
    lease_timer: asyncio.TimerHandle | None = None
    lease_holder: str | None = None

    def as_json(self, secret: str | None = None) -> dict[str, Any]:
        """Return the JSON form. Only a poll passes the secret."""
        return {
            "type": "work",
            "id": self.id,
            "environment_id": self.environment_id,
            "created_at": self.created_at,
            "state": self.state,
            "data": {"type": self.data_type, "id": self.data_id},
            "metadata": self.metadata,
            "acknowledged_at": self.acknowledged_at,
            "started_at": self.started_at,
            "latest_heartbeat_at": self.latest_heartbeat_at,
            "stop_requested_at": self.stop_requested_at,
            "stopped_at": self.stopped_at,
            "secret": secret,
        }

    def stranded(self, after_seconds: float) -> bool:
        """Return whether the item was acknowledged this long ago and has had no heartbeat since."""
        since = self.acknowledged_monotonic
        return self.state == "starting" and since is not None and time.monotonic() - since >= after_seconds

    def drop_lease(self) -> None:
        """Forget the lease and its timer."""
        if self.lease_timer is not None:
            self.lease_timer.cancel()
        self.lease_timer = None
        self.lease_holder = None

    def renew(self) -> None:
        """Make the item a new queue entry with the same ID, new times and no lease."""
        self.drop_lease()
        self.created_at = timestamp()
        self.reset_to_queued()
        self.started_at = None

    def reset_to_queued(self) -> None:
        """Set the item back to queued, as after a lapsed lease."""
        self.drop_lease()
        self.state = "queued"
        self.acknowledged_at = self.acknowledged_monotonic = None
        self.latest_heartbeat_at = None
        self.stop_requested_at = self.stopped_at = None
        self.offered_at = None
        self.offers = 0
