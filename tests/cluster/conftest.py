"""One control plane for all cluster tests, a namespace for each, and whole systems on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from managed_session_local.control_plane import ControlPlane
from managed_session_local.system import LocalSystem

from .systems import StartSystem, local_system, unique_name

DEFINITION = Path(__file__).parents[2] / "crds/managedsessions.yaml"
LAST_LINES = 40
FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
async def control_plane() -> AsyncIterator[ControlPlane]:
    """A Kubernetes API server that all tests share; each works in namespaces of its own."""
    async with ControlPlane() as running:
        yield running


@pytest.fixture(scope="session")
async def definition(control_plane: ControlPlane) -> None:
    """The CustomResourceDefinition, installed on the shared API server."""
    await control_plane.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={DEFINITION}")
    await control_plane.kubectl("wait", "--for=condition=Established", f"--filename={DEFINITION}")


@pytest.fixture
async def namespace(control_plane: ControlPlane, definition: None) -> str:  # noqa: ARG001 - wanted for its effect
    """A new namespace in which ManagedSessions can be made."""
    name = unique_name()
    await control_plane.kubectl("create", "namespace", name)
    return name


@pytest.fixture
async def start_system(
    control_plane: ControlPlane, request: pytest.FixtureRequest
) -> AsyncIterator[StartSystem]:
    """Starts systems with namespaces and simulators of their own; takes the parameters of LocalSystem."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> LocalSystem:
            system = await stack.enter_async_context(local_system(control_plane, **options))
            stack.callback(show_logs, request.node, system)
            return system

        yield start


@pytest.fixture
async def system(start_system: StartSystem) -> LocalSystem:
    """A system with namespaces and simulators of its own, whose workers wait one second for a message."""
    return await start_system()


def show_logs(test: pytest.Item, system: LocalSystem) -> None:
    """After a failed test, print how the logs end."""
    if not test.stash.get(FAILED, False):
        return
    for name, path in system.logs.items():
        lines = path.read_text(errors="replace").splitlines()
        print(f"--- {name}: last lines of {len(lines)}", *lines[-LAST_LINES:], sep="\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report
