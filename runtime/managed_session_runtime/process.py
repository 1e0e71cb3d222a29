"""Runs a process that serves HTTP until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

from managed_session_runtime.kubernetes_client import KubernetesConfigurationError
from managed_session_runtime.settings import EXIT_CODE

Run = Callable[[asyncio.Event], Awaitable[None]]
"""Serves until the event is set."""


def run_process(run: Run, logger: logging.Logger) -> None:
    """Run until SIGTERM or SIGINT; a second signal ends the process at once.

    Exits with code 2 if no usable API server is configured, and with 1 if the process cannot start otherwise.
    """
    try:
        uvloop.run(_until_signal(run))
    except KubernetesConfigurationError as error:
        logger.error("cannot start: %s", error)  # noqa: TRY400 - a traceback would add nothing
        sys.exit(EXIT_CODE)
    except OSError as error:
        logger.error("cannot start: %s", error)  # noqa: TRY400 - a traceback would add nothing
        sys.exit(1)


async def _until_signal(run: Run) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await run(stop)
