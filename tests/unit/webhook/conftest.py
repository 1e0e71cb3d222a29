"""Fixtures: the webhook's app on a real server, and a scripted API server that speaks HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from kubernetes.aio.client import Configuration
from managed_session_runtime.credentials import CredentialDirectory
from managed_session_runtime.kubernetes_client import TimeoutApiClient
from managed_session_runtime.managed_session_client import ManagedSessionClient
from managed_session_runtime.probes import serve
from managed_session_webhook.app import webhook_app
from managed_session_webhook.body import BodyReader
from managed_session_webhook.delivery import DeliveryEndpoint
from managed_session_webhook.event_store import EventStore
from managed_session_webhook.metrics import Outcome, WebhookMetrics
from managed_session_webhook.readiness import KubernetesReadiness
from managed_session_webhook.signature import SignatureVerifier
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

Answer = tuple[int, Any]


@dataclass
class ScriptedApiServer:
    """Answers each request with the result of `answer`, and remembers the request."""

    answer: Callable[[str, str], Awaitable[Answer]]
    requests: list[tuple[str, str]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        self.requests.append((scope["method"], scope["path"]))
        status, body = await self.answer(scope["method"], scope["path"])
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        await send({"type": "http.response.body", "body": content})


async def never(_: str, __: str) -> Answer:
    """An API server that hangs."""
    await asyncio.Event().wait()
    raise AssertionError


@dataclass
class Harness:
    """A served webhook."""

    url: str
    port: int
    client: httpx.AsyncClient
    api_server: ScriptedApiServer
    credentials: Path
    registry: CollectorRegistry

    def counted(self, outcome: Outcome) -> float:
        """Return how many requests to /webhook had this outcome."""
        labels = {"outcome": outcome.value}
        return self.registry.get_sample_value("managed_sessions_webhook_requests_total", labels) or 0.0


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    api_server = ScriptedApiServer(never)
    folder = tmp_path_factory.mktemp("credentials")
    async with serve(api_server, host="127.0.0.1", port=0, drain_seconds=1) as kubernetes:
        configuration = Configuration()
        configuration.host = kubernetes.url
        async with TimeoutApiClient(configuration, timeout_seconds=1.0) as client:
            credentials = CredentialDirectory(folder, {})
            verifier = SignatureVerifier(credentials)
            registry = CollectorRegistry()
            api = ManagedSessionClient(client, "managed-sessions", component="managed-session-webhook")
            app = webhook_app(
                delivery=DeliveryEndpoint(
                    verifier=verifier,
                    store=EventStore(api, concurrency=4, deadline_seconds=3.0),
                    metrics=WebhookMetrics(registry),
                    bodies=BodyReader(timeout_seconds=6.0, large_bodies=2),
                    retry_after_seconds=7,
                ),
                verifier=verifier,
                credentials=credentials,
                api=api,
                readiness=KubernetesReadiness(api, 1.0),
            )
            async with (
                serve(app, host="127.0.0.1", port=0, drain_seconds=1) as server,
                httpx.AsyncClient(base_url=server.url, trust_env=False) as sender,
            ):
                yield Harness(server.url, server.port, sender, api_server, folder, registry)


@pytest.fixture
def webhook(served: Harness) -> Harness:
    """The served webhook, without credentials, and with a hanging API server."""
    for file in served.credentials.iterdir():
        file.unlink()
    served.api_server.answer = never
    served.api_server.requests.clear()
    return served
