"""``python -m managed_session_local.simulators.anthropic``: run the simulator until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette

from .app import create_app
from .connections import CuttableProtocol
from .settings import Settings


class _Server(uvicorn.Server):
    """Uvicorn's server; signals are this module's, and held polls and streams end before it drains."""

    def __init__(self, app: Starlette, announce: Callable[[], None], config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Begin the shutdown."""
        self.should_exit = True
        cloud = getattr(self._app.state, "cloud", None)
        if cloud is not None:
            cloud.release_waiting()


async def _serve(settings: Settings, address: tuple[str, int], ready_file: Path | None) -> None:
    app = create_app(settings)
    listener = socket.create_server(address, backlog=2048)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = _Server(
        app,
        lambda: _announce(ready_file, url),
        uvicorn.Config(
            app,
            http=CuttableProtocol,
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="warning",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        ),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    try:
        await server.serve(sockets=[listener])
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)  # noqa: ASYNC240


def _announce(ready_file: Path | None, url: str) -> None:
    ready = json.dumps({"url": url, "pid": os.getpid()})
    if ready_file is not None:
        partial = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
        partial.write_text(ready)
        partial.replace(ready_file)
    print(ready, flush=True)


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m managed_session_local.simulators.anthropic")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 takes a free one")
    parser.add_argument(
        "--ready-file", type=Path, help="file that gets the URL and process ID as JSON once it listens"
    )
    parser.add_argument("--settings", type=Path, help="JSON file with settings")
    arguments = parser.parse_args()
    try:
        settings = Settings.model_validate_json(
            arguments.settings.read_bytes() if arguments.settings else b"{}"
        )
    except (OSError, ValidationError) as error:
        sys.exit(f"cannot use {arguments.settings}: {error}")
    asyncio.run(_serve(settings, (arguments.host, arguments.port), arguments.ready_file))


if __name__ == "__main__":
    main()
