"""Clusters for the tests: they can be created, given images, and deleted."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Protocol

from .commands import CommandError, Kubectl, run

CREATE_SECONDS = 300.0
LOAD_SECONDS = 180.0


class NoClusterError(Exception):
    """There is no cluster, and none can be created. The text says what is missing."""


class Cluster(Protocol):
    """A Kubernetes cluster for the tests."""

    kubectl: Kubectl
    pulls: bool
    """Whether its nodes pull images from a registry."""
    stays: bool
    """Whether it stays after the tests, so that they have to clean up."""

    async def create(self) -> None:
        """Create the cluster, and return when its node is ready."""

    async def load_images(self, *references: str) -> None:
        """Load images of this machine into its nodes."""

    async def delete(self) -> None:
        """Delete the cluster with everything in it."""


class KindCluster:
    """A new cluster, created by kind. Its nodes are containers of a Docker daemon.

    KIND_NODE_IMAGE and KIND_CONFIG replace kind's default node image and configuration.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"managed-sessions-e2e-{uuid.uuid4().hex[:6]}"
        self.kubectl = Kubectl(folder / "kubeconfig")
        self.pulls = self.stays = False

    async def create(self) -> None:
        """Create the cluster, which takes about half a minute. Raises CommandError."""
        image, config = os.environ.get("KIND_NODE_IMAGE"), os.environ.get("KIND_CONFIG")
        options = [f"--name={self.name}", f"--kubeconfig={self.kubectl.kubeconfig}", "--wait=180s"]
        options += [f"--image={image}"] if image else []
        options += [f"--config={config}"] if config else []
        await run("kind", "create", "cluster", *options, timeout_seconds=CREATE_SECONDS)

    async def load_images(self, *references: str) -> None:
        """Load images from the Docker daemon."""
        await _kind_load(self.name, *references)

    async def delete(self) -> None:
        """Delete its containers with their volumes."""
        await run("kind", "delete", "cluster", f"--name={self.name}", timeout_seconds=120)


class GivenCluster:
    """The cluster that KUBECONFIG names. It stays; the tests remove what they install.

    Its nodes must be able to pull the images. Those of a kind cluster get them from the Docker daemon.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.kubectl = Kubectl(kubeconfig)
        self.pulls = self.stays = True
        self._kind_name: str | None = None

    async def create(self) -> None:
        """Check that it answers, and whether kind has created it.

        Raises:
            CommandError: it does not answer.
        """
        await self.kubectl("version", "--request-timeout=10s")
        context = (await self.kubectl("config", "current-context")).strip()
        if context.startswith("kind-"):
            self._kind_name, self.pulls = context.removeprefix("kind-"), False

    async def load_images(self, *references: str) -> None:
        """Load images into the nodes of a kind cluster. Other nodes pull them."""
        if self._kind_name is not None:
            await _kind_load(self._kind_name, *references)

    async def delete(self) -> None:
        """Do nothing, because the tests have not created the cluster."""


async def _kind_load(cluster: str, *references: str) -> None:
    await run("kind", "load", "docker-image", f"--name={cluster}", *references, timeout_seconds=LOAD_SECONDS)


async def find_cluster(folder: Path) -> Cluster:
    """Return the cluster to test on: KUBECONFIG's, or one that kind will create.

    Raises:
        NoClusterError: neither is available.
    """
    if shutil.which("kubectl") is None:
        raise NoClusterError("kubectl is not installed")
    given = os.environ.get("KUBECONFIG")
    if given:
        return GivenCluster(Path(given))
    for program in ("kind", "docker"):
        if shutil.which(program) is None:
            raise NoClusterError(f"KUBECONFIG is not set, and {program} is not installed")
    try:
        await run("docker", "version", timeout_seconds=20)
    except CommandError as error:
        raise NoClusterError(f"KUBECONFIG is not set, and no Docker daemon answers: {error}") from error
    return KindCluster(folder)
