"""``python -m managed_session_devkit.simulators.anthropic``: run the simulator until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import uvicorn
from pydantic import ValidationError

from managed_session_devkit.simulators.anthropic.app import create_app
from managed_session_devkit.simulators.anthropic.connections import CuttableProtocol
from managed_session_devkit.simulators.anthropic.settings import Settings
from managed_session_devkit.simulators.common.network_loss import NetworkLoss
from managed_session_devkit.simulators.common.server import SimulatorServer, argument_parser
from managed_session_devkit.simulators.common.settings import read_settings


async def _serve(settings: Settings, address: tuple[str, int], ready_file: Path | None) -> None:
    app = create_app(settings)
    listener = socket.create_server(address, backlog=2048)
    app.state.network = NetworkLoss(listener)

    def end_held_calls() -> None:
        # Otherwise the server would wait for open polls and streams.
        cloud = getattr(app.state, "cloud", None)
        if cloud is not None:
            cloud.release_waiting()

    config = uvicorn.Config(
        app,
        http=CuttableProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    await SimulatorServer(config, ready_file, on_stop=end_held_calls).run_on(listener)


def main() -> None:
    """Parse the command line and serve."""
    arguments = argument_parser("managed_session_devkit.simulators.anthropic").parse_args()
    try:
        settings = read_settings(Settings, arguments.settings)
    except (OSError, ValidationError) as error:
        sys.exit(f"cannot use {arguments.settings}: {error}")
    asyncio.run(_serve(settings, (arguments.host, arguments.port), arguments.ready_file))


if __name__ == "__main__":
    main()
