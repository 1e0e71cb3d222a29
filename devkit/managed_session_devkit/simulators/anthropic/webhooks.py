"""Webhook endpoints and delivery.

Payloads are thin and have a Standard Webhooks signature. A delivery has three attempts with jittered
exponential back-off. The order is not guaranteed. An endpoint that answers 3xx is disabled at once
(https://platform.claude.com/docs, "Webhooks").
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
from standardwebhooks import Webhook

from managed_session_devkit.simulators.anthropic.faults import FaultPlan
from managed_session_devkit.simulators.anthropic.identifiers import new_id
from managed_session_devkit.simulators.anthropic.ledger import Ledger
from managed_session_devkit.simulators.anthropic.settings import WebhookSettings
from managed_session_devkit.simulators.common.times import now, timestamp

DOCUMENTED_SESSION_EVENTS = (
    "session.status_run_started",
    "session.status_idled",
    "session.status_rescheduled",
    "session.status_terminated",
    "session.budget_reached",
    "session.thread_created",
    "session.thread_idled",
    "session.thread_terminated",
    "session.updated",
    "session.deleted",
)


def new_signing_secret() -> str:
    """Return a signing secret: ``whsec_`` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass
class Endpoint:
    """A registered endpoint.

    Attributes:
        events: types that it has subscribed to; ``*`` means all.
        secrets: each of them signs every delivery, as during a rotation.
        disabled: why deliveries have stopped, if they have.
    """

    url: str
    events: list[str]
    secrets: list[str]
    id: str = field(default_factory=lambda: new_id("whep"))
    disabled: str | None = None
    failing_since: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as the control surface shows it."""
        return {
            "id": self.id,
            "url": self.url,
            "events": self.events,
            "secret": self.secrets[-1],
            "secrets": self.secrets,
            "disabled": self.disabled,
        }

    def wants(self, event_type: str) -> bool:
        """Return whether the endpoint has subscribed to a type."""
        return "*" in self.events or event_type in self.events


def signature_headers(
    event_id: str, body: str, signing_secrets: list[str], offset_seconds: float = 0
) -> dict[str, str]:
    """Return the Standard Webhooks headers of one attempt, signed for the current time plus the offset."""
    at = now() + timedelta(seconds=offset_seconds)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(event_id, at, body) for secret in signing_secrets),
    }


class WebhookSender:
    """Delivers events to endpoints, one task per event and endpoint."""

    def __init__(self, settings: Callable[[], WebhookSettings], ledger: Ledger, faults: FaultPlan) -> None:
        self._settings = settings
        self._ledger = ledger
        self._faults = faults
        self.endpoints: dict[str, Endpoint] = {}
        self.holding = False
        self._held: list[tuple[Endpoint, dict[str, Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: httpx.AsyncClient | None = None

    def _http(self) -> httpx.AsyncClient:
        # The client is made for the first delivery, because loading certificates slows the start.
        if self._client is None:
            connections = self._settings().max_connections
            self._client = httpx.AsyncClient(
                follow_redirects=False,
                trust_env=False,
                limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            )
        return self._client

    def event(
        self, event_type: str, object_id: str, organization_id: str, workspace_id: str
    ) -> dict[str, Any]:
        """Return the thin payload of an event."""
        return {
            "type": "event",
            "id": new_id("whe"),
            "created_at": timestamp(),
            "data": {
                "type": event_type,
                "id": object_id,
                "organization_id": organization_id,
                "workspace_id": workspace_id,
            },
        }

    def publish(self, event: dict[str, Any]) -> int:
        """Send an event to every endpoint that wants it. Return how many there are."""
        wanting = [endpoint for endpoint in self.endpoints.values() if endpoint.wants(event["data"]["type"])]
        for endpoint in wanting:
            self.send(endpoint, event)
        return len(wanting)

    def send(self, endpoint: Endpoint, event: dict[str, Any], *, offset_seconds: float = 0) -> None:
        """Send or hold an event for one endpoint, even if it has not subscribed."""
        data = event.get("data", {})
        if endpoint.disabled is not None:
            self._record(endpoint, event, attempt=0, outcome="endpoint_disabled")
            return
        if self.holding:
            self._held.append((endpoint, event))
            return
        fields = {"type": str(data.get("type")), "object_id": str(data.get("id")), "endpoint_id": endpoint.id}
        action = self._faults.next("webhook.deliver", fields)
        delay = self._settings().latency.sample_seconds()
        copies = 1
        if action is not None:
            self._ledger.faults_applied[f"webhook.deliver {action.action}"] += 1
            if action.action == "drop":
                self._record(endpoint, event, attempt=0, outcome="dropped_by_fault")
                return
            copies = action.copies if action.action == "duplicate" else 1
            delay += action.seconds
        for _ in range(copies):
            task = asyncio.create_task(self._deliver(endpoint, event, delay, offset_seconds))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def release(self, order: str) -> int:
        """Send the held deliveries (``fifo``, ``lifo`` or ``shuffle``), and hold no more. Return how many."""
        self.holding = False
        held, self._held = self._held, []
        if order == "lifo":
            held.reverse()
        elif order == "shuffle":
            random.shuffle(held)
        for endpoint, event in held:
            self.send(endpoint, event)
        return len(held)

    async def _deliver(
        self, endpoint: Endpoint, event: dict[str, Any], delay: float, offset_seconds: float
    ) -> None:
        await asyncio.sleep(delay)
        settings = self._settings()
        body = json.dumps(event, separators=(",", ":"))
        for attempt in range(1, settings.attempts + 1):
            if attempt > 1:
                await asyncio.sleep(_retry_delay(settings, attempt - 2))
            if endpoint.disabled is not None or endpoint.id not in self.endpoints:
                self._record(endpoint, event, attempt, outcome="endpoint_disabled")
                return
            if await self._attempt(endpoint, event, body, attempt, offset_seconds):
                return

    async def _attempt(
        self, endpoint: Endpoint, event: dict[str, Any], body: str, attempt: int, offset_seconds: float
    ) -> bool:
        timeout = self._settings().response_timeout_seconds
        started = time.time()
        headers = signature_headers(event["id"], body, endpoint.secrets, offset_seconds)
        try:
            response = await self._http().post(
                endpoint.url,
                content=body.encode(),
                headers={
                    **headers,
                    "content-type": "application/json",
                    "user-agent": "Anthropic-Webhooks/1.0",
                },
                # The response timeout starts when the request is sent, not when it is queued here.
                timeout=httpx.Timeout(timeout, pool=None),
            )
        except httpx.HTTPError as error:
            self._record(endpoint, event, attempt, outcome=type(error).__name__, started=started)
            self._failed(endpoint)
            return False
        self._record(
            endpoint, event, attempt, outcome="answered", started=started, status=response.status_code
        )
        if response.is_success:
            endpoint.failing_since = None
            return True
        if response.is_redirect or 300 <= response.status_code < 400:
            endpoint.disabled = f"answered {response.status_code}"
            return True
        self._failed(endpoint)
        return False

    def _failed(self, endpoint: Endpoint) -> None:
        settings = self._settings()
        endpoint.failing_since = endpoint.failing_since or time.monotonic()
        limit = settings.disable_after_failing_seconds
        if limit is not None and time.monotonic() - endpoint.failing_since >= limit * settings.time_scale:
            endpoint.disabled = "failed continuously"

    def _record(
        self,
        endpoint: Endpoint,
        event: dict[str, Any],
        attempt: int,
        *,
        outcome: str,
        started: float | None = None,
        status: int | None = None,
    ) -> None:
        data = event.get("data", {})
        self._ledger.delivery(
            {
                "at": time.time() if started is None else started,
                "milliseconds": None if started is None else round((time.time() - started) * 1000, 3),
                "endpoint_id": endpoint.id,
                "event_id": event.get("id"),
                "type": data.get("type"),
                "object_id": data.get("id"),
                "attempt": attempt,
                "outcome": outcome,
                "status": status,
            }
        )

    async def close(self) -> None:
        """Drop all pending deliveries."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()


def _retry_delay(settings: WebhookSettings, retry: int) -> float:
    low = min(settings.retry_max_seconds, settings.retry_min_seconds * 4**retry)
    return random.uniform(low, min(settings.retry_max_seconds, low * 4)) * settings.time_scale
