"""Systems for the fault matrix: one at a time, shared by the rows of one arrangement."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from managed_session_devkit.control_plane import ControlPlane

from ..support.fixtures import FAILED, control_plane, pytest_runtest_makereport, show_logs
from ..support.shared_sandboxes import shared_sandboxes
from ..support.system_pool import SystemPool
from .scenario import Scenario

__all__ = ["control_plane", "pytest_runtest_makereport"]


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
