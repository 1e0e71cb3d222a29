"""One control plane for all cluster tests, a namespace for each, and whole systems on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from managed_session_devkit.control_plane import ControlPlane, established
from managed_session_devkit.system.local_system import LocalSystem

from ..support.fixtures import control_plane, pytest_runtest_makereport, show_logs
from ..support.parts import keep_part
from ..support.systems import StartSystem, local_system, unique_name
from .command_line import serving, site

__all__ = ["control_plane", "pytest_runtest_makereport", "serving", "site"]

DEFINITIONS = Path(__file__).parents[2] / "crds"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that divides the suite."""
    parser.addoption("--cluster-part", default="1/1", help="run a part of the files: 2/2 is the second half")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the files of the other parts."""

    def file(item: pytest.Item) -> Path | None:
        return item.path if item.path.parent == Path(__file__).parent else None

    keep_part(config, items, config.getoption("--cluster-part", "1/1"), file)


@pytest.fixture(scope="session")
async def definition(control_plane: ControlPlane) -> None:
    """The CustomResourceDefinitions, installed on the shared API server."""
    await control_plane.kubectl("apply", "--server-side", "--force-conflicts", f"--kustomize={DEFINITIONS}")
    await established(control_plane.kubectl)


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
