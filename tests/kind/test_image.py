"""The image, inspected in a container without the restrictions of the manifests."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ..support.waiting import eventually
from .images import ROOT, Images
from .installation import OPERATOR, Installation

OURS = {"managed-sessions"}
NAMESPACE, POD = "default", "image-from-inside"
PROBE = """
import importlib.metadata, importlib.util, json, os, pathlib, re, sys
import managed_session_operator as package
folder = pathlib.Path(package.__file__).parent
compiled = [importlib.util.cache_from_source(str(each)) for each in folder.rglob("*.py")]
print(json.dumps({
    "user": os.getuid(),
    "installers": [each for each in ("pip", "ensurepip", "setuptools") if importlib.util.find_spec(each)],
    "writable": [each for each in (sys.prefix, sys.base_prefix, str(folder)) if os.access(each, os.W_OK)],
    "bytecode": sorted({int.from_bytes(pathlib.Path(each).read_bytes()[4:8], "little") for each in compiled}),
    "installed": {re.sub("[-_.]+", "-", each.name).lower(): each.version
                  for each in importlib.metadata.distributions()},
}))
"""


@pytest.fixture(scope="module")
async def inside(installation: Installation, images: Images) -> AsyncIterator[dict[str, Any]]:
    """What a container with only a command finds in the image."""
    kubectl = installation.kubectl
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": NAMESPACE},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "probe",
                    "image": images.product,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", PROBE],
                }
            ],
        },
    }
    await kubectl("create", "--filename=-", input=json.dumps(pod))
    try:

        async def ended() -> bool:
            found = await kubectl.get(NAMESPACE, "pod", POD)
            return found["status"].get("phase") in ("Succeeded", "Failed")

        await eventually("the container ends", ended, seconds=60)
        yield json.loads(await kubectl(f"--namespace={NAMESPACE}", "logs", POD))
    finally:
        await kubectl(f"--namespace={NAMESPACE}", "delete", "pod", POD, "--wait=false")


async def test_image_runs_as_the_user_of_the_pods_by_default(
    inside: dict[str, Any], installation: Installation
) -> None:
    (pod, *_) = await installation.pods(OPERATOR)
    assert inside["user"] == pod["spec"]["securityContext"]["runAsUser"]


def test_nothing_can_be_installed_or_changed(inside: dict[str, Any]) -> None:
    assert inside["installers"] == []
    assert inside["writable"] == []


def test_installed_libraries_are_those_of_the_lock_file(inside: dict[str, Any]) -> None:
    locked = dict(
        re.findall(r"^([a-z0-9-]+)==([^\s;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    )
    libraries = {name: version for name, version in inside["installed"].items() if name not in OURS}
    assert libraries.items() <= locked.items()
    assert len(libraries) > 40


def test_bytecode_contains_and_checks_no_time(inside: dict[str, Any]) -> None:
    hash_based_and_unchecked = 1
    assert inside["bytecode"] == [hash_based_and_unchecked]
