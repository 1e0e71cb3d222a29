"""A pod of the installation as a process of this machine: the same command, rights, files and probes."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import httpx

from managed_session_local.child_process import ChildProcess
from managed_session_local.control_plane import ProcessFailedError
from managed_session_local.secret_volume import SecretVolume

READY_SECONDS = 60.0
_POLL_SECONDS = 0.03

_PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
"""What any process of this machine needs to run, find its libraries and trust its certificates."""


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of this machine that every process of the local system gets."""
    return {name: environ[name] for name in _PASSED_ON if name in environ}


def write_private(path: Path, content: str) -> None:
    """Write a file that only this user can read; a reader sees the old content or the new one."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    Path(partial).replace(path)


class Pod:
    """One process of the installation.

    Args:
        name: of this process; also of its log file.
        command: console script, such as `managed-session-webhook`.
        module: what the script runs, for a source tree whose scripts are not installed.
        folder: holds its log and its credentials.
        environment: all its environment variables but the settings.
        settings: `MANAGED_SESSIONS_…` variables.
        probe_port: where it serves /livez, /readyz and /metrics.
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
        self.process = ChildProcess(name, _executable(command, module), folder, {})

    @property
    def credentials(self) -> Path:
        """Its credentials: a mounted Secret, in the kubelet's form."""
        return self.secret.path

    @property
    def log(self) -> Path:
        """Its log: one JSON object a line."""
        return self.process.log

    @property
    def running(self) -> bool:
        """Whether the process is there (frozen or not)."""
        return self.process.pid is not None

    def set_credential(self, name: str, value: str | None) -> None:
        """Add, replace or (None) remove a credential as kubelet does; the process reads it afresh."""
        content = self.secret.read()
        content.pop(name, None)
        if value is not None:
            content[name] = f"{value}\n".encode()
        self.secret.write(content)

    def take_credentials_of(self, other: "Pod") -> None:
        """Hold what another pod of the same Deployment holds."""
        self.secret.write(other.secret.read())

    async def start(self) -> None:
        """Start it without waiting for readiness."""
        self.process.environment = {**self._environment, **self._settings}
        await self.process.start()

    async def wait_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until /readyz answers 200.

        Raises:
            ProcessFailedError: it ended, or was not ready in time; the text shows its log's last lines.
        """
        polling = asyncio.ensure_future(self._poll_until_ready())
        ended = asyncio.ensure_future(self.process.wait())
        try:
            await asyncio.wait((polling, ended), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            if polling.done():
                polling.result()
            elif ended.done():
                raise ended.result()
            else:
                raise ProcessFailedError(
                    f"{self.name} was not ready after {timeout_seconds:g} s. {self.process.last_lines()}"
                )
        finally:
            polling.cancel()
            ended.cancel()
            await asyncio.gather(polling, ended, return_exceptions=True)

    async def restart(self, *, kill: bool = False, **settings: str) -> None:
        """Stop it if it runs (`kill`: with SIGKILL), start it with changed settings, wait for readiness.

        Settings are given in lower case without the prefix: `restart(max_idle_seconds="1")`.

        Raises:
            ProcessFailedError: it did not become ready.
        """
        await self.process.stop(kill=kill)
        self.change_settings(**settings)
        await self.start()
        await self.wait_ready()

    def change_settings(self, **settings: str) -> None:
        """Change settings (lower case, without the prefix); they count from the next start."""
        self._settings |= {f"MANAGED_SESSIONS_{name.upper()}": value for name, value in settings.items()}

    async def kill(self) -> None:
        """End it with SIGKILL, and wait until it is gone."""
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
