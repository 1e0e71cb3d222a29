"""Posts Kubernetes Events about resources and about the operator."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from kubernetes.aio.client import (
    ApiClient,
    CoreV1Api,
    CoreV1Event,
    V1EventSource,
    V1ObjectMeta,
    V1ObjectReference,
)
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.clients.kubernetes.calls import kubernetes_call
from managed_session_operator.domain.errors import ConflictError, OperationError, ResourceGoneError

logger = logging.getLogger(__name__)


class EventRecorder:
    """Posts the Kubernetes Events of a namespace in the background, as best effort.

    At most `limit` Events wait to be posted; further ones are dropped, because no state depends on Events.
    """

    def __init__(self, api_client: ApiClient, namespace: str, *, timeout: float, limit: int = 1000) -> None:
        self._core = CoreV1Api(api_client)
        self._namespace = namespace
        self._timeout = timeout
        self._queue: asyncio.Queue[CoreV1Event] = asyncio.Queue(maxsize=limit)

    def record(
        self, resource: ManagedSession, reason: Reason, message: str, *, warning: bool = False
    ) -> None:
        """Queue an Event of type Normal or Warning about a resource."""
        about = V1ObjectReference(
            api_version=names.API_VERSION,
            kind=names.KIND,
            name=resource.metadata.name,
            namespace=self._namespace,
            uid=resource.metadata.uid,
        )
        self._queue_event(about, reason, message, warning=warning)

    def warn_about_lease(self, name: str, reason: Reason, message: str) -> None:
        """Queue a Warning about the operator's Lease, for problems of the whole installation."""
        about = V1ObjectReference(
            api_version="coordination.k8s.io/v1", kind="Lease", name=name, namespace=self._namespace
        )
        self._queue_event(about, reason, message, warning=True)

    def _queue_event(self, about: V1ObjectReference, reason: Reason, message: str, *, warning: bool) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        event = CoreV1Event(
            metadata=V1ObjectMeta(generate_name=f"{about.name}."),
            involved_object=about,
            type="Warning" if warning else "Normal",
            reason=str(reason),
            message=message[:1000],
            first_timestamp=now,
            last_timestamp=now,
            count=1,
            reporting_component="managed-session-operator",
            source=V1EventSource(component="managed-session-operator"),
        )
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            logger.debug("event dropped", extra={"about": about.name, "reason": str(reason)})

    async def run(self) -> None:
        """Post queued Events until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                async with kubernetes_call("event", timeout=self._timeout, fence=None):
                    await self._core.create_namespaced_event(self._namespace, event)
            except (OperationError, ConflictError, ResourceGoneError) as error:
                logger.warning("event not posted", extra={"cause": str(error)})
