"""A real simulator process, the real SDK bound to it, and a client of its control surface."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2b import E2B, AsyncTemplate, wait_for_file
from managed_session_local.simulators.e2b.client import E2BSimulatorClient

START_SECONDS = 30


@dataclass
class RunningSimulator:
    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def simulator_process(
    directory: Path, settings: dict[str, Any] | None = None, prefix: list[str] | None = None
) -> Iterator[RunningSimulator]:
    ready = directory / "ready.json"
    ready.unlink(missing_ok=True)
    settings_file = directory / "settings.json"
    settings_file.write_text(json.dumps(settings or {}))
    command = [sys.executable, "-m", "managed_session_local.simulators.e2b", "--port", "0"]
    command += [
        "--ready-file",
        str(ready),
        "--settings",
        str(settings_file),
        "--state-dir",
        str(directory / "state"),
    ]
    environment = {**os.environ, "E2B_API_KEY": "host-secret-key"}
    process = subprocess.Popen([*(prefix or []), *command], env=environment)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            assert process.poll() is None, "the simulator ended at its start"
            assert time.monotonic() < deadline, "the simulator did not start"
            time.sleep(0.01)
        yield RunningSimulator(json.loads(ready.read_text())["url"], process)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    with simulator_process(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture(scope="session")
def start_simulator(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    def start(
        settings: dict[str, Any] | None = None,
        prefix: list[str] | None = None,
        directory: Path | None = None,
    ) -> Any:
        return simulator_process(directory or tmp_path_factory.mktemp("own-simulator"), settings, prefix)

    return start


@pytest.fixture
async def control(simulator: RunningSimulator) -> AsyncIterator[E2BSimulatorClient]:
    """The control surface; afterwards no fault, no changed setting and no sandbox is left."""
    async with E2BSimulatorClient(simulator.url) as client:
        before = await client.settings()
        await client.clear_ledger()
        yield client
        await client.clear_faults()
        await client.change_settings(**before)
        for sandbox in await client.sandboxes("running", "pausing", "paused"):
            await client.vanish(sandbox.id)


@pytest.fixture
def e2b(control: E2BSimulatorClient) -> E2B:
    return sdk(control.url)


def sdk(url: str) -> E2B:
    return E2B(api_key="e2b_0123456789", api_url=url, sandbox_url=url)


@pytest.fixture
def sdk_for() -> Callable[[str], E2B]:
    return sdk


WORKER = """
import json, sys, time
import anthropic
from anthropic.lib import environments
with open("/tmp/ready", "w") as stream:
    json.dump({"argv": sys.argv, "name": __name__}, stream)
count = 0
while True:
    count += 1
    with open("/tmp/count", "w") as stream:
        stream.write(str(count))
    time.sleep(0.01)
"""


def worker_template(directory: Path) -> Any:
    (directory / "lib").mkdir(exist_ok=True)
    (directory / "lib" / "worker.py").write_text(WORKER)
    return (
        AsyncTemplate(file_context_path=str(directory))
        .from_python_image("3.12")
        .run_cmd("exit 1")
        .set_envs({"FOR_START": "yes"})
        .copy("lib", "/opt/anthropic-managed-agents/lib")
        .set_user("root")
        .set_start_cmd("python3 /opt/anthropic-managed-agents/lib/worker.py one", wait_for_file("/tmp/ready"))
    )


@pytest.fixture(scope="session")
async def worker_name(simulator: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A built template whose start command imports anthropic and counts."""
    directory = tmp_path_factory.mktemp("template")
    await sdk(simulator.url).AsyncTemplate.build(worker_template(directory), "worker:v1", tags=["stable"])
    return "worker:v1"


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the outside world sets no event
            await asyncio.sleep(0.02)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Wait until a condition (an async callable) is true."""
    return eventually
