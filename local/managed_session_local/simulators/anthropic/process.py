"""Start the simulator as a process of its own, for tests, the demo and benchmarks."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from .settings import Settings

_START_SECONDS = 30
_STOP_SECONDS = 10


@dataclass(frozen=True)
class Running:
    """A simulator that listens."""

    url: str
    pid: int


@asynccontextmanager
async def running_simulator(settings: Settings | None = None) -> AsyncIterator[Running]:
    """Run the simulator on a free port; it is gone when the context ends.

    Raises:
        RuntimeError: it exited or did not listen within 30 seconds.
    """
    with tempfile.TemporaryDirectory(prefix="anthropic-simulator-") as directory:
        ready = Path(directory, "ready.json")
        file = Path(directory, "settings.json")
        file.write_text((settings or Settings()).model_dump_json())  # noqa: ASYNC240
        module = __package__ or ""
        command = [sys.executable, "-m", module, "--ready-file", str(ready), "--settings", str(file)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not ready.exists():  # noqa: ASYNC240
                    if process.returncode is not None:
                        raise RuntimeError(f"the simulator exited with status {process.returncode}")
                    await asyncio.sleep(0.02)
            yield Running(**json.loads(ready.read_text()))  # noqa: ASYNC240
        except TimeoutError as error:
            raise RuntimeError(f"the simulator did not listen within {_START_SECONDS} s") from error
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
