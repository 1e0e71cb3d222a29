"""Systems for the fault matrix: one at a time, shared by the rows of one arrangement."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from managed_session_local.control_plane import ControlPlane

from ..cluster.conftest import FAILED, control_plane, pytest_runtest_makereport, show_logs
from .scene import Scene
from .stage import Stage

__all__ = ["FAILED", "control_plane", "pytest_runtest_makereport"]


@pytest.fixture(scope="session")
async def stage(control_plane: ControlPlane) -> AsyncIterator[Stage]:
    """Where systems are set up."""
    stage = Stage(control_plane)
    yield stage
    await stage.close()


@pytest.fixture
async def scene(stage: Stage, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """A scene in the system of the row's arrangement; what it broke is mended, or the system is given up."""
    system, proxies = await stage.set_up(request.node.callspec.params["row"].arrangement)
    scene = Scene(system, proxies)
    yield scene
    await scene.calm()
    await scene.close()
    show_logs(request.node, system)
    if request.node.stash.get(FAILED, False):
        await stage.close()
