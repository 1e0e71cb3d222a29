"""`python -m managed_session_devkit.simulators.e2b --port 0 --ready-file F [--settings F.json]`."""

import asyncio
import contextlib
import fcntl
import logging
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvicorn
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from managed_session_devkit.simulators.common.network_loss import NetworkLoss
from managed_session_devkit.simulators.common.server import SimulatorServer, argument_parser
from managed_session_devkit.simulators.common.settings import read_settings
from managed_session_devkit.simulators.e2b.app import Simulator
from managed_session_devkit.simulators.e2b.gateway import TRANSPORT
from managed_session_devkit.simulators.e2b.host import SandboxHostError
from managed_session_devkit.simulators.e2b.network_routes import forget, note_request
from managed_session_devkit.simulators.e2b.settings import Settings

_DIRECTORY_PREFIX: Final = "e2b-simulator-"


class TransportProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol. It gives its TCP connection to the application, which can reset it."""

    def __init__(self, *arguments: object, **keywords: object) -> None:
        super().__init__(*arguments, **keywords)  # type: ignore[arg-type]
        application = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope[TRANSPORT] = self.transport
            note_request(self.transport, scope["path"])
            await application(scope, receive, send)

        self.app = with_transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        forget(self.transport)
        super().connection_lost(exc)


@contextlib.contextmanager
def state_directory(parent: Path) -> Iterator[Path]:
    """Make a directory for sandboxes' files until the end. Remove those of killed simulators first."""
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


async def serve(
    settings: Settings, address: tuple[str, int], ready_file: Path | None, directory: Path
) -> None:
    """Run until SIGTERM or SIGINT. Raises OSError when the port is taken, SandboxHostError."""
    listener = socket.create_server(address, backlog=2048)
    simulator = Simulator(settings, directory, NetworkLoss(listener))
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
        await SimulatorServer(config, ready_file).run_on(listener)
    finally:
        await simulator.close()
        listener.close()


def main() -> int:
    """Parse the command line and serve."""
    parser = argument_parser("managed_session_devkit.simulators.e2b")
    parser.add_argument(
        "--state-dir", type=Path, help="directory for sandboxes' files (default: a temporary one)"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = read_settings(Settings, arguments.settings)
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
