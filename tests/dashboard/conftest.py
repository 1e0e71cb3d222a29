"""One control plane, one dashboard and one browser for all tests of the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from managed_session_devkit.control_plane import ControlPlane

from ..support.fixtures import control_plane, pytest_runtest_makereport
from .site import Site, dashboard

__all__ = ["control_plane", "pytest_runtest_makereport"]


@pytest.fixture(scope="session")
async def site(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A dashboard that all tests share; each makes sessions of its own."""
    folder: Path = tmp_path_factory.mktemp("dashboard")
    async with dashboard(control_plane, folder, dashboard_failed_sign_ins="1000") as running:
        await running.make("sesn_01NobodyAsksForThisOne")
        yield running
