"""Fixtures: a real simulator process, the real SDK, and a client of the control surface."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from e2b import E2B, AsyncTemplate, wait_for_file
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

from ....support.simulator_process import RunningSimulator, simulator_process
from ....support.waiting import eventually


@contextmanager
def e2b_simulator(
    directory: Path, settings: dict[str, Any] | None = None, prefix: list[str] | None = None
) -> Iterator[RunningSimulator]:
    environment = {**os.environ, "E2B_API_KEY": "host-secret-key"}
    state = f"--state-dir={directory / 'state'}"
    with simulator_process(
        "e2b", directory, state, settings=settings, prefix=prefix, environment=environment
    ) as running:
        yield running


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    with e2b_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture(scope="session")
def start_simulator(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    def start(
        settings: dict[str, Any] | None = None,
        prefix: list[str] | None = None,
        directory: Path | None = None,
    ) -> Any:
        return e2b_simulator(directory or tmp_path_factory.mktemp("own-simulator"), settings, prefix)

    return start


@pytest.fixture
async def control(simulator: RunningSimulator) -> AsyncIterator[E2BSimulatorClient]:
    """The control surface. Afterwards faults, changed settings and sandboxes are removed."""
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
    """The name of a built template, whose start command imports anthropic and counts."""
    directory = tmp_path_factory.mktemp("template")
    await sdk(simulator.url).AsyncTemplate.build(worker_template(directory), "worker:v1", tags=["stable"])
    return "worker:v1"


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Wait until a condition (an async callable) is true."""
    return partial(eventually, "the condition")
