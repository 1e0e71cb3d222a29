"""Fixtures: one cluster with the simulators for all tests, and a working installation for each file."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from .cluster import Cluster, NoClusterError, find_cluster
from .commands import Kubectl
from .diagnosis import diagnosis
from .images import Images, find_images
from .installation import SYSTEM, Installation
from .simulated_clouds import SimulatedClouds, simulated_clouds

KUBECTL = pytest.StashKey[Kubectl]()


@pytest.fixture(scope="session")
async def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cluster]:
    """A new cluster, or the one that KUBECONFIG names.

    If there is neither, the tests are skipped, or fail with E2E_REQUIRED=1.
    """
    try:
        found = await find_cluster(tmp_path_factory.mktemp("cluster"))
    except NoClusterError as error:
        if os.environ.get("E2E_REQUIRED"):
            pytest.fail(f"no cluster for the tests: {error}")
        pytest.skip(f"no cluster for the tests: {error}")
    try:
        await found.create()
        request.config.stash[KUBECTL] = found.kubectl
        if await found.kubectl.get("", "namespace", SYSTEM):
            pytest.fail(
                f"the cluster has a namespace {SYSTEM} already: the tests would change that installation"
            )
        yield found
    finally:
        await found.delete()


@pytest.fixture(scope="session")
async def images(cluster: Cluster) -> Images:
    """The images, loaded into the cluster's nodes."""
    found = await find_images()
    await cluster.load_images(found.product, found.next_version, found.simulators)
    return found


@pytest.fixture(scope="session")
async def clouds(cluster: Cluster, images: Images) -> AsyncIterator[SimulatedClouds]:
    """The simulators, running as pods."""
    async with simulated_clouds(cluster.kubectl, images.simulators, stays=not cluster.stays) as running:
        yield running


@pytest.fixture(scope="session")
async def installed(
    cluster: Cluster, images: Images, clouds: SimulatedClouds, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    """The installation, not applied yet."""
    folder: Path = tmp_path_factory.mktemp("installation")
    installation = Installation(cluster.kubectl, clouds, folder, images.product, pulls=cluster.pulls)
    try:
        yield installation
    finally:
        if cluster.stays:
            await installation.remove()


@pytest.fixture(scope="module")
async def installation(installed: Installation) -> Installation:
    """The installation as `deploy/` makes it, even if tests of other files have changed it."""
    await installed.apply()
    return installed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the state of the cluster to the report of a failure."""
    report = yield
    kubectl = item.config.stash.get(KUBECTL, None)
    if report.failed and kubectl is not None:
        report.sections.append(("The cluster", diagnosis(kubectl)))
    return report
