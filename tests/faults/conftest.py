"""Which rows of the fault matrix are played, and the system that rows of one arrangement share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from managed_session_devkit.control_plane import ControlPlane

from ..support.fixtures import FAILED, control_plane, pytest_runtest_makereport, show_logs
from ..support.parts import keep_part
from ..support.shared_sandboxes import shared_sandboxes
from ..support.system_pool import SystemPool
from .scenario import Scenario

__all__ = ["control_plane", "pytest_runtest_makereport"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that divides the matrix."""
    parser.addoption("--fault-part", default="1/1", help="play a part of the rows: 2/3 is the second third")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the rows of the other parts. Each part has rows of all families."""

    def row(item: pytest.Item) -> str | None:
        return item.nodeid if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None

    keep_part(config, items, config.getoption("--fault-part", "1/1"), row)


@pytest.fixture(scope="session")
async def system_pool(control_plane: ControlPlane) -> AsyncIterator[SystemPool]:
    """Keeps the system that the rows share."""
    system_pool = SystemPool(control_plane)
    yield system_pool
    await system_pool.close()


@pytest.fixture
async def scenario(system_pool: SystemPool, request: pytest.FixtureRequest) -> AsyncIterator[Scenario]:
    """A scenario in the system of the row's arrangement; a failed row's system is not used again."""
    system, proxies = await system_pool.set_up(request.node.callspec.params["row"].arrangement)
    earlier = frozenset(each.id for each in await shared_sandboxes(system))
    scenario = Scenario(system, proxies, earlier)
    yield scenario
    await scenario.calm()
    await scenario.close()
    show_logs(request.node, system)
    if request.node.stash.get(FAILED, False):
        await system_pool.close()
