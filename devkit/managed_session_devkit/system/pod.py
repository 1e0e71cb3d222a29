"""Runs a pod of the installation as a local process: with the same command, rights, files and probes."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import httpx

from managed_session_devkit.system.child_process import ChildProcess
from managed_session_devkit.system.fork_server import ForkServer
from managed_session_devkit.system.secret_volume import SecretVolume
from managed_session_devkit.system.source_tree import SourceTree

READY_SECONDS = 120.0
_POLL_SECONDS = 0.03


def write_private(path: Path, content: str) -> None:
    """Write a file atomically. Only this user can read it."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    Path(partial).replace(path)


class Pod:
    """One process of the installation.

    Args:
        name: name of the process and of its log file.
        command: console script to run, such as `managed-session-webhook`.
        module: module to run instead if the script is not installed.
        folder: folder for its log and its credentials.
        environment: all its environment variables except the settings.
        settings: `MANAGED_SESSIONS_…` variables.
        probe_port: port where it serves /livez, /readyz and /metrics.
        fork_server: forks the process if it knows the command.
    """

    def __init__(
        self,
        name: str,
        command: str,
        module: str,
        folder: Path,
        *,
        environment: Mapping[str, str],
        settings: Mapping[str, str],
        probe_port: int,
        fork_server: ForkServer | None = None,
    ) -> None:
        self.name = name
        self.secret = SecretVolume(folder / f"{name}-credentials")
        self.probe_url = f"http://127.0.0.1:{probe_port}"
        self._settings = {
            **settings,
            "MANAGED_SESSIONS_CREDENTIALS_DIR": str(self.secret.path),
            "MANAGED_SESSIONS_PROBE_HOST": "127.0.0.1",
            "MANAGED_SESSIONS_PROBE_PORT": str(probe_port),
        }
        self._environment = dict(environment)
        self._version: SourceTree | None = None
        self.process = ChildProcess(name, _executable(command, module), folder, {}, fork_server)

    @property
    def credentials(self) -> Path:
        """The folder of its credentials: a mounted Secret, laid out as the kubelet does."""
        return self.secret.path

    @property
    def log(self) -> Path:
        """Its log file, with one JSON object per line."""
        return self.process.log

    @property
    def running(self) -> bool:
        """Whether the process exists (frozen or not)."""
        return self.process.pid is not None

    def set_credential(self, name: str, value: str | None) -> None:
        """Add, replace or (None) remove a credential as the kubelet does. The process notices the change."""
        content = self.secret.read()
        content.pop(name, None)
        if value is not None:
            content[name] = f"{value}\n".encode()
        self.secret.write(content)

    def take_credentials_of(self, other: "Pod") -> None:
        """Take the same credentials as another pod of the same Deployment."""
        self.secret.write(other.secret.read())

    async def start(self) -> None:
        """Start the process without waiting until it is ready."""
        code = {"PYTHONPATH": self._version.python_path} if self._version is not None else {}
        self.process.environment = {**self._environment, **code, **self._settings}
        await self.process.start()

    async def wait_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until /readyz answers 200.

        Raises:
            ProcessFailedError: it ended, or was not ready in time. The text shows the end of its log.
        """
        await self.process.until_ready(self._poll_until_ready(), timeout_seconds)

    async def restart(self, *, kill: bool = False, **settings: str) -> None:
        """Stop it if it runs, start it with changed settings, and wait until it is ready.

        `kill` stops it with SIGKILL. Settings are in lower case, without the prefix:
        `restart(max_idle_seconds="1")`.

        Raises:
            ProcessFailedError: it did not become ready.
        """
        await self.process.stop(kill=kill)
        self.change_settings(**settings)
        await self.start()
        await self.wait_ready()

    def change_settings(self, **settings: str) -> None:
        """Change settings (lower case, without the prefix) for the next start."""
        self._settings |= {f"MANAGED_SESSIONS_{name.upper()}": value for name, value in settings.items()}

    def change_version(self, version: SourceTree | None) -> None:
        """Run the code of another version, or (None) of this one, from the next start on."""
        self._version = version

    async def kill(self) -> None:
        """Kill the process with SIGKILL, and wait until it is gone."""
        await self.process.stop(kill=True)

    async def _poll_until_ready(self) -> None:
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            while True:
                try:
                    if (await client.get(f"{self.probe_url}/readyz")).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(_POLL_SECONDS)


def _executable(command: str, module: str) -> list[str]:
    script = Path(sys.executable).with_name(command)
    return [str(script)] if script.is_file() else [sys.executable, "-m", module]
