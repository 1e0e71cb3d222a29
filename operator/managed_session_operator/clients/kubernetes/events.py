"""Posts Kubernetes Events about resources and about the operator."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from kubernetes.aio.client import ApiClient
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from managed_session_runtime.api_server_requests import Body

from managed_session_operator.clients.kubernetes.objects import Objects
from managed_session_operator.domain.errors import ConflictError, OperationError, ResourceGoneError

logger = logging.getLogger(__name__)

_COMPONENT = "managed-session-operator"


class EventRecorder:
    """Posts the Kubernetes Events of a namespace in the background, as best effort.

    At most `limit` Events wait to be posted; further ones are dropped, because no state depends on Events.
    """

    def __init__(self, api_client: ApiClient, namespace: str, *, timeout: float, limit: int = 1000) -> None:
        self._events = Objects(api_client, namespace, "events", fence=None, timeout=timeout)
        self._namespace = namespace
        self._queue: asyncio.Queue[Body] = asyncio.Queue(maxsize=limit)

    def record(
        self, resource: ManagedSession, reason: Reason, message: str, *, warning: bool = False
    ) -> None:
        """Queue an Event of type Normal or Warning about a resource."""
        about = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": resource.metadata.name,
            "namespace": self._namespace,
            "uid": resource.metadata.uid,
        }
        self._queue_event(about, reason, message, warning=warning)

    def warn_about_lease(self, name: str, reason: Reason, message: str) -> None:
        """Queue a Warning about the operator's Lease, for problems of the whole installation."""
        about = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "name": name,
            "namespace": self._namespace,
        }
        self._queue_event(about, reason, message, warning=True)

    def _queue_event(self, about: Body, reason: Reason, message: str, *, warning: bool) -> None:
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{about['name']}."},
            "involvedObject": about,
            "type": "Warning" if warning else "Normal",
            "reason": str(reason),
            "message": message[:1000],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "reportingComponent": _COMPONENT,
            "source": {"component": _COMPONENT},
        }
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            logger.debug("event dropped", extra={"about": about["name"], "reason": str(reason)})

    async def run(self) -> None:
        """Post queued Events until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await self._events.create("event", event)
            except (OperationError, ConflictError, ResourceGoneError) as error:
                logger.warning("event not posted", extra={"cause": str(error)})
