"""The process `managed-session-operator`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Any

# The SDK reads its pool's size when it is imported: one stream stays open per running sandbox.
if not os.environ.setdefault("E2B_MAX_CONNECTIONS", "2000").isdecimal():
    sys.stderr.write(
        "the settings are wrong:\n  E2B_MAX_CONNECTIONS: allowed is a whole number of at least 1.\n"
    )
    sys.exit(2)

from managed_session_runtime.kubernetes_client import KubernetesConfigurationError, connect
from managed_session_runtime.log import configure_logging
from managed_session_runtime.probes import probe_app, publish_build_info, serve
from managed_session_runtime.settings import EXIT_CODE, load_settings

from managed_session_operator.failures import ConflictError, Failure, ResourceGoneError
from managed_session_operator.process import OperatorProcess, default_installation_id
from managed_session_operator.settings import OperatorSettings

logger = logging.getLogger(__name__)


def _without_cut_streams(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught, but not each stream that is cut on purpose when this process stops leading.

    E2B's SDK reads a stream in a task of its own; cut off, that one ends with an error that nobody awaits.
    """
    error = context.get("exception")
    if type(error).__name__ == "ConnectError" and "cancelled" in str(error):
        return
    loop.default_exception_handler(context)


async def run(settings: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT."""
    asyncio.get_running_loop().set_exception_handler(_without_cut_streams)
    api_client = await connect(
        connections=settings.kubernetes_connections,
        timeout_seconds=settings.kubernetes_timeout_seconds,
        user_agent="managed-session-operator",
    )
    async with api_client:
        installation = settings.installation_id or await default_installation_id(
            api_client, settings.system_namespace, settings.kubernetes_timeout_seconds
        )
        operator = OperatorProcess(settings, api_client, installation)
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
            logger.info("stopped")


def main() -> None:
    """Run the operator; exit code 2 where the settings are wrong, 1 where it cannot start."""
    settings = load_settings(OperatorSettings)
    configure_logging(settings.log_format, settings.log_level)
    for chatty in ("kopf.objects", "httpx", "httpx2", "e2b"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        asyncio.run(run(settings))
    except KubernetesConfigurationError as error:
        logger.error("cannot start: %s", error)  # noqa: TRY400 - the text says it all
        sys.exit(EXIT_CODE)
    except (Failure, ConflictError, ResourceGoneError, OSError) as error:
        logger.error("cannot start: %s", error)  # noqa: TRY400 - the text says it all
        sys.exit(1)
    logging.shutdown()
    # The threads of E2B's SDK may abort the process while the interpreter shuts down.
    os._exit(0)


if __name__ == "__main__":
    main()
