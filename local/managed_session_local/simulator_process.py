"""One simulator as a child process."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from managed_session_local.child_process import ChildProcess
from managed_session_local.control_plane import ProcessFailedError
from managed_session_local.pod import write_private

_READY_SECONDS = 30.0
_POLL_SECONDS = 0.02


class SimulatorProcess:
    """A simulator; `name` is its package below `managed_session_local.simulators`, `options` are its own.

    `url` is its address, once it was started.
    """

    url: str

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: Mapping[str, Any],
        environment: Mapping[str, str],
        *options: str,
    ) -> None:
        self._ready_file = folder / f"{name}-simulator.ready"
        settings_file = folder / f"{name}-simulator.json"
        write_private(settings_file, json.dumps(settings))
        command = [
            sys.executable, "-m", f"managed_session_local.simulators.{name}",
            "--port=0", f"--ready-file={self._ready_file}", f"--settings={settings_file}",
            *options,
        ]  # fmt: skip
        self.process = ChildProcess(f"{name}-simulator", command, folder, environment)

    async def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            ProcessFailedError: it ended, or did not listen in time.
        """
        await self.process.start()
        ended = asyncio.ensure_future(self.process.wait())
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while not self._ready_file.exists():
                    if ended.done():
                        raise ended.result()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise ProcessFailedError(
                f"{self.process.name} did not listen within {_READY_SECONDS:g} s. {self.process.last_lines()}"
            ) from None
        finally:
            ended.cancel()
        self.url = json.loads(self._ready_file.read_text())["url"]

    async def stop(self) -> None:
        """End it and all that it runs."""
        await self.process.stop(grace_seconds=20.0)
