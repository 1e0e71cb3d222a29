"""Runs the process `managed-session-webhook`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial

from managed_session_runtime.credentials import CredentialDirectory
from managed_session_runtime.kubernetes_client import connect
from managed_session_runtime.log import configure_logging
from managed_session_runtime.managed_session_client import ManagedSessionClient
from managed_session_runtime.probes import probe_app, publish_build_info, serve
from managed_session_runtime.process import run_process
from managed_session_runtime.settings import load_settings

from managed_session_webhook.app import webhook_app
from managed_session_webhook.body import BodyReader
from managed_session_webhook.delivery import DeliveryEndpoint
from managed_session_webhook.event_store import EventStore
from managed_session_webhook.metrics import WebhookMetrics
from managed_session_webhook.readiness import KubernetesReadiness
from managed_session_webhook.settings import WebhookSettings
from managed_session_webhook.signature import SignatureVerifier

logger = logging.getLogger("managed_session_webhook")

_COMPONENT = "managed-session-webhook"


async def run(settings: WebhookSettings, stop: asyncio.Event) -> None:
    """Serve until `stop`. Then become unready, wait for load balancers, and let requests finish.

    Raises:
        KubernetesConfigurationError: no API server is configured.
        OSError: a port is not available.
    """
    client = await connect(
        connections=settings.kubernetes_connections,
        timeout_seconds=settings.kubernetes_timeout_seconds,
        user_agent=_COMPONENT,
        proxy_url=settings.kubernetes_proxy_url,
    )
    async with client:
        credentials = CredentialDirectory(settings.credentials_dir)
        verifier = SignatureVerifier(credentials)
        api = ManagedSessionClient(client, settings.namespace, component=_COMPONENT)
        readiness = KubernetesReadiness(api, settings.webhook_readiness_interval_seconds)
        app = webhook_app(
            delivery=_delivery_endpoint(settings, verifier, api),
            verifier=verifier,
            credentials=credentials,
            api=api,
            readiness=readiness,
        )
        publish_build_info("webhook")
        watch = asyncio.create_task(readiness.watch(), name="readiness")
        try:
            async with (
                serve(
                    app,
                    host=settings.webhook_host,
                    port=settings.webhook_port,
                    drain_seconds=settings.webhook_drain_seconds,
                    limit_concurrency=settings.webhook_max_connections,
                ) as server,
                # Last, so that the pod is never ready before the webhook listens.
                serve(
                    probe_app(ready=readiness.check), host=settings.probe_host, port=settings.probe_port
                ) as probes,
            ):
                logger.info("listening", extra={"port": server.port, "probePort": probes.port})
                await stop.wait()
                readiness.stop()
                logger.info("stopping")
                await asyncio.sleep(settings.webhook_shutdown_delay_seconds)
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch


def _delivery_endpoint(
    settings: WebhookSettings, verifier: SignatureVerifier, api: ManagedSessionClient
) -> DeliveryEndpoint:
    return DeliveryEndpoint(
        verifier=verifier,
        store=EventStore(
            api,
            concurrency=settings.webhook_concurrent_events,
            deadline_seconds=settings.webhook_deadline_seconds,
        ),
        metrics=WebhookMetrics(),
        bodies=BodyReader(
            timeout_seconds=settings.webhook_body_timeout_seconds,
            large_bodies=settings.webhook_large_bodies,
        ),
        retry_after_seconds=settings.webhook_retry_after_seconds,
    )


def main() -> None:
    """Run the webhook. Exit code 2: invalid settings; 1: it cannot start."""
    settings = load_settings(WebhookSettings)
    configure_logging(settings.log_format, settings.log_level)
    run_process(partial(run, settings), logger)


if __name__ == "__main__":
    main()
