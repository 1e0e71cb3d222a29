"""Runs one simulator as a child process."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from managed_session_devkit.system.child_process import ChildProcess
from managed_session_devkit.system.fork_server import ForkServer
from managed_session_devkit.system.pod import write_private

_READY_SECONDS = 30.0
_POLL_SECONDS = 0.02


class SimulatorProcess:
    """A simulator that can be started and stopped.

    `name` is its package below `managed_session_devkit.simulators`; `options` are command-line options of the
    simulator. `url` is its address once it is started.
    """

    url: str

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: Mapping[str, Any],
        environment: Mapping[str, str],
        *options: str,
        fork_server: ForkServer | None = None,
    ) -> None:
        self._ready_file = folder / f"{name}-simulator.ready"
        settings_file = folder / f"{name}-simulator.json"
        write_private(settings_file, json.dumps(settings))
        command = [
            sys.executable, "-m", f"managed_session_devkit.simulators.{name}",
            "--port=0", f"--ready-file={self._ready_file}", f"--settings={settings_file}",
            *options,
        ]  # fmt: skip
        self.process = ChildProcess(f"{name}-simulator", command, folder, environment, fork_server)

    async def start(self) -> None:
        """Start the simulator, and wait until it listens.

        Raises:
            ProcessFailedError: it ended, or did not listen in time.
        """
        await self.process.start()
        await self.process.until_ready(self._poll_until_listening(), _READY_SECONDS)
        self.url = json.loads(self._ready_file.read_text())["url"]

    async def stop(self) -> None:
        """Stop the simulator and everything that it runs."""
        await self.process.stop(grace_seconds=20.0)

    async def _poll_until_listening(self) -> None:
        while not self._ready_file.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(_POLL_SECONDS)
