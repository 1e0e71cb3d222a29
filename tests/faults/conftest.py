"""Which rows of the fault matrix are played, and the system that rows of one arrangement share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from managed_session_devkit.control_plane import ControlPlane

from ..support.fixtures import FAILED, control_plane, pytest_runtest_makereport, show_logs
from ..support.shared_sandboxes import shared_sandboxes
from ..support.system_pool import SystemPool
from .scenario import Scenario

__all__ = ["control_plane", "pytest_runtest_makereport"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that divides the matrix."""
    parser.addoption("--part", default="1/1", help="play a part of the rows: 2/3 is the second third")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the rows of the other parts. Each part has rows of all families."""
    part, parts = (int(number) for number in config.getoption("part").split("/"))
    if not 1 <= part <= parts:
        raise pytest.UsageError(f"--part={part}/{parts}: there is no such part")
    rows = [each for each in items if isinstance(each, pytest.Function) and hasattr(each, "callspec")]
    others = {row for number, row in enumerate(rows) if number % parts != part - 1}
    config.hook.pytest_deselected(items=[*others])
    items[:] = [each for each in items if each not in others]


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
