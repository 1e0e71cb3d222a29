"""The two images: the product's and the simulators'."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from .commands import run

ROOT = Path(__file__).parents[2]
BUILD_SECONDS = 900.0


@dataclass(frozen=True)
class Images:
    """References of the images."""

    product: str
    next_version: str
    simulators: str


async def find_images() -> Images:
    """Return the images that E2E_IMAGE and E2E_SIMULATORS_IMAGE name, or build them from this source tree.

    The next version is the same image under another tag. Without a Docker daemon it is E2E_NEXT_IMAGE.
    """
    product, simulators = await asyncio.gather(
        _given_or_built("E2E_IMAGE", "managed-sessions:e2e"),
        _given_or_built("E2E_SIMULATORS_IMAGE", "managed-sessions-simulators:e2e", "--target=simulators"),
    )
    following = os.environ.get("E2E_NEXT_IMAGE")
    if not following:
        following = f"{split(product)[0]}:e2e-next"
        await run("docker", "tag", product, following)
    return Images(product, following, simulators)


async def _given_or_built(variable: str, name: str, *options: str) -> str:
    given = os.environ.get(variable)
    if given:
        return given
    await run(
        "docker", "build", f"--tag={name}", *options, str(ROOT),
        environment={"DOCKER_BUILDKIT": "1"}, timeout_seconds=BUILD_SECONDS,
    )  # fmt: skip
    return name


def split(reference: str) -> tuple[str, str]:
    """Return the name and the tag of an image's reference. The default tag is `latest`."""
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, "latest")
