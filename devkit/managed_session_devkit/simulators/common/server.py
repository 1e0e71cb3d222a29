"""Runs a simulator as a server, with its command line, its ready file and its signals."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn


class SimulatorServer(uvicorn.Server):
    """uvicorn's server. It writes a ready file when it listens, and stops at SIGTERM or SIGINT.

    Args:
        config: uvicorn's configuration.
        ready_file: file for the URL and the process ID as JSON, removed at the end.
        on_stop: called when a signal asks for the end.
    """

    def __init__(
        self, config: uvicorn.Config, ready_file: Path | None, on_stop: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(config)
        self._ready_file = ready_file
        self._on_stop = on_stop

    async def run_on(self, listener: socket.socket) -> None:
        """Serve on this listening socket until a signal comes."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            await self.serve(sockets=[listener])
        finally:
            if self._ready_file is not None:
                self._ready_file.unlink(missing_ok=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then write the ready file."""
        await super().startup(sockets)
        if self.started and sockets:
            self._announce(sockets[0].getsockname()[1])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing, because `run_on` handles signals."""
        yield

    def _stop(self) -> None:
        self.should_exit = True
        self._on_stop()

    def _announce(self, port: int) -> None:
        ready = json.dumps({"url": f"http://127.0.0.1:{port}", "pid": os.getpid()})
        if self._ready_file is not None:
            partial = self._ready_file.with_name(f"{self._ready_file.name}.{os.getpid()}")
            partial.write_text(ready)
            partial.replace(self._ready_file)
        print(ready, flush=True)


def argument_parser(program: str) -> argparse.ArgumentParser:
    """Return a parser for the options that both simulators have."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="TCP port to listen on; 0 chooses a free one")
    parser.add_argument(
        "--ready-file",
        type=Path,
        help="file for the URL and process ID as JSON, written when the server listens",
    )
    parser.add_argument("--settings", type=Path, help="JSON file with settings")
    return parser
