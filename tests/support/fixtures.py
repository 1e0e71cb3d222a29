"""Fixtures that more than one suite has: the shared control plane, and logs of tests that failed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

import pytest
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from .systems import FORK_SERVER

FAILED = pytest.StashKey[bool]()
"""Set for a test of which any phase failed."""
_LAST_LINES = 40


@pytest.fixture(scope="session")
async def control_plane() -> AsyncIterator[ControlPlane]:
    """A Kubernetes API server that all tests share; each works in namespaces of its own."""
    async with ControlPlane() as running:
        yield running
    await FORK_SERVER.close()


def show_logs(test: pytest.Item, system: LocalSystem) -> None:
    """After a failed test, print how the logs end."""
    if not test.stash.get(FAILED, False):
        return
    for name, path in system.logs.items():
        lines = path.read_text(errors="replace").splitlines()
        print(f"--- {name}: last lines of {len(lines)}", *lines[-_LAST_LINES:], sep="\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note which tests failed, for `show_logs`."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report
