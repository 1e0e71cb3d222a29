"""Runs the process `managed-session-operator`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

# Set before the import, at which the SDK reads its pool's size. Each running sandbox keeps a stream open.
if not os.environ.setdefault("E2B_MAX_CONNECTIONS", "2000").isdecimal():
    sys.stderr.write("invalid settings:\n  E2B_MAX_CONNECTIONS: allowed is a whole number of at least 1.\n")
    sys.exit(2)

from kubernetes.aio.client import ApiClient
from managed_session_runtime.kubernetes_client import KubernetesConfigurationError, connect
from managed_session_runtime.log import configure_logging
from managed_session_runtime.probes import probe_app, publish_build_info, serve
from managed_session_runtime.settings import EXIT_CODE, load_settings

from managed_session_operator.app import OperatorApp, default_installation_id
from managed_session_operator.clients.opentelemetry.configuration import traces_on
from managed_session_operator.domain.errors import ConflictError, ErrorKind, OperationError, ResourceGoneError
from managed_session_operator.settings import OperatorSettings

if TYPE_CHECKING:
    from managed_session_operator.clients.opentelemetry.span_exporter import SpanExporter

logger = logging.getLogger(__name__)

_LEASE_CONNECTIONS = 2
_START_SECONDS = 20.0


def _without_cut_streams(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log unhandled errors, except those of streams that are closed when this process stops leading.

    E2B's SDK reads a stream in its own task. When the stream is closed, the task ends with an error that
    nobody awaits.
    """
    error = context.get("exception")
    if type(error).__name__ == "ConnectError" and "cancelled" in str(error):
        return
    loop.default_exception_handler(context)


async def _default_installation_id(settings: OperatorSettings, api_client: ApiClient) -> str:
    """Return the UID of the system namespace. Retries while the API server is unavailable for a moment.

    Raises:
        OperationError, ResourceGoneError: it could not be read in time.
    """
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            return await default_installation_id(
                api_client, settings.system_namespace, settings.kubernetes_timeout_seconds
            )
        except OperationError as error:
            if error.kind is not ErrorKind.TRANSIENT or time.monotonic() > deadline:
                raise
            logger.warning("reading the system namespace again", extra={"cause": str(error)})
            await asyncio.sleep(settings.retry_scale)


def _span_exporter() -> SpanExporter | None:
    """Return what sends traces; None if they are off, which costs no import."""
    if not traces_on(os.environ):
        return None
    from managed_session_operator.clients.opentelemetry.span_exporter import (  # noqa: PLC0415 - only if wanted
        SpanExporter,
    )

    return SpanExporter()


async def run(settings: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT."""
    asyncio.get_running_loop().set_exception_handler(_without_cut_streams)
    api_client = await connect(
        connections=settings.kubernetes_connections,
        timeout_seconds=settings.kubernetes_timeout_seconds,
        user_agent="managed-session-operator",
        proxy_url=settings.kubernetes_proxy_url,
    )
    # The Lease has its own connections. If connections die silently, it then loses one renewal, not several.
    lease_client = await connect(
        connections=_LEASE_CONNECTIONS,
        user_agent="managed-session-operator",
        proxy_url=settings.kubernetes_proxy_url,
    )
    async with api_client, lease_client:
        installation = settings.installation_id or await _default_installation_id(settings, api_client)
        spans = _span_exporter()
        operator = OperatorApp(settings, api_client, lease_client, installation, spans)
        publish_build_info("operator", operator.metrics.registry)
        probes = probe_app(
            ready=operator.ready, live=operator.liveness.check, registry=operator.metrics.registry
        )
        async with serve(probes, host=settings.probe_host, port=settings.probe_port) as server:
            logger.info("starting", extra={"installation": installation, "probePort": server.port})
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            await operator.run(stop)
            if spans is not None:
                await spans.close()
            logger.info("stopped")


def main() -> None:
    """Run the operator. The exit code is 2 for invalid settings, and 1 if it cannot start."""
    settings = load_settings(OperatorSettings)
    configure_logging(settings.log_format, settings.log_level)
    for chatty in ("kopf.objects", "httpx", "httpx2", "e2b"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        asyncio.run(run(settings))
    except KubernetesConfigurationError as error:
        logger.error("cannot start: %s", error)  # noqa: TRY400 - the text says it all
        sys.exit(EXIT_CODE)
    except (OperationError, ConflictError, ResourceGoneError, OSError) as error:
        logger.error("cannot start: %s", error)  # noqa: TRY400 - the text says it all
        sys.exit(1)
    logging.shutdown()
    # The threads of E2B's SDK may abort the process while the interpreter shuts down.
    os._exit(0)


if __name__ == "__main__":
    main()
