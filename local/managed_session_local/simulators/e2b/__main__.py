"""`python -m managed_session_local.simulators.e2b --port 0 --ready-file F [--settings F.json]`."""

import argparse
import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final

import uvicorn
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from managed_session_local.simulators.e2b.app import Simulator
from managed_session_local.simulators.e2b.gateway import TRANSPORT
from managed_session_local.simulators.e2b.host import SandboxHostError
from managed_session_local.simulators.e2b.settings import Settings, load_settings

_DIRECTORY_PREFIX: Final = "e2b-simulator-"


class TransportProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol; the application gets its TCP connection: a fault can reset it."""

    def __init__(self, *arguments: object, **keywords: object) -> None:
        super().__init__(*arguments, **keywords)  # type: ignore[arg-type]
        application = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope[TRANSPORT] = self.transport
            await application(scope, receive, send)

        self.app = with_transport


class _Server(uvicorn.Server):
    """uvicorn's server; its caller handles signals and is told when it listens."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()


@contextlib.contextmanager
def state_directory(parent: Path) -> Iterator[Path]:
    """A directory for sandboxes' files, removed at the end; those that a killed simulator left go first."""
    for lock_file in parent.glob(_DIRECTORY_PREFIX + "*/lock"):
        with contextlib.suppress(OSError), lock_file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_file.parent, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=_DIRECTORY_PREFIX, dir=parent))
    try:
        unlocked = directory / "lock.new"
        with unlocked.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unlocked.rename(directory / "lock")
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write_ready_file(path: Path, port: int) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"url": f"http://127.0.0.1:{port}", "pid": os.getpid()}))
    partial.rename(path)


async def serve(
    settings: Settings, address: tuple[str, int], ready_file: Path | None, directory: Path
) -> None:
    """Run until SIGTERM or SIGINT. Raises OSError when the port is taken, SandboxHostError."""
    listener = socket.create_server(address, backlog=2048)
    simulator = Simulator(settings, directory)
    try:
        await simulator.open()
        config = uvicorn.Config(
            simulator,
            http=TransportProtocol,
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=600,
            timeout_graceful_shutdown=1,
        )

        def on_listening() -> None:
            if ready_file is not None:
                _write_ready_file(ready_file, listener.getsockname()[1])

        server = _Server(config, on_listening)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, setattr, server, "should_exit", True)
        await server.serve(sockets=[listener])
    finally:
        await simulator.close()
        listener.close()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m managed_session_local.simulators.e2b", description=__doc__
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--settings", type=Path, help="JSON file, see settings.py")
    parser.add_argument(
        "--state-dir", type=Path, help="where sandboxes' files live (default: a temporary directory)"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings(arguments.settings)
    except (OSError, ValidationError) as error:
        sys.stderr.write(f"settings: {error}\n")
        return 2
    parent = arguments.state_dir or Path(tempfile.gettempdir())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with state_directory(parent) as directory:
            address = (arguments.host, arguments.port)
            asyncio.run(serve(settings, address, arguments.ready_file, directory))
    except (SandboxHostError, OSError) as error:
        sys.stderr.write(f"e2b simulator: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
