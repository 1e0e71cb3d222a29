"""`managed-sessions dashboard`: the address, how to sign in, and a connection that is made again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from managed_session_cli.manifests import load_dashboard_manifests

from ..support.waiting import eventually
from .site import VIEWER, Site

KUBECTL = """#!{python}
# Stands for a kubectl that reaches a node: the first connection is lost at once.
import pathlib, signal, sys
calls = pathlib.Path({calls!r})
first = not calls.exists()
with calls.open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
print("Forwarding from 127.0.0.1:{port} -> 8000", flush=True)
print("Forwarding from [::1]:{port} -> 8000", flush=True)
if first:
    sys.exit("error: lost connection to pod")
signal.pause()
"""


async def start(site: Site, path: str, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "managed_session_cli.main", "dashboard", "--no-open", *options,
        f"--namespace={site.namespace}", f"--system-namespace={site.system_namespace}",
        env={**os.environ, "KUBECONFIG": str(site.control_plane.kubeconfig), "PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture
async def deployed(site: Site) -> Site:
    """A site with all objects of deploy/dashboard/."""
    objects = load_dashboard_manifests(site.namespace, site.system_namespace)
    await site.control_plane.kubectl(
        "apply",
        "--server-side",
        "--filename=-",
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )
    return site


async def test_command_prints_the_address_and_connects_again(deployed: Site, tmp_path: Path) -> None:
    calls, kubectl = tmp_path / "calls", tmp_path / "kubectl"
    port = deployed.url.rsplit(":", 1)[1].strip("/")
    kubectl.write_text(KUBECTL.format(python=sys.executable, calls=str(calls), port=port))
    kubectl.chmod(0o755)
    process = await start(deployed, str(tmp_path))
    assert process.stdout is not None
    printed = ""
    async with asyncio.timeout(120):
        while "connecting again" not in printed:
            printed += (await process.stdout.readline()).decode()
        assert f"http://127.0.0.1:{port}/" in printed
        assert f"kubectl create token {VIEWER} --namespace={deployed.system_namespace}" in printed

        async def called_twice() -> bool:
            return calls.exists() and len(calls.read_text().splitlines()) == 2

        await eventually("kubectl is called again", called_twice)
        process.send_signal(signal.SIGTERM)
        rest, _ = await process.communicate()
    assert (process.returncode, rest.decode().strip()) == (0, "Disconnected.")
    first, second = calls.read_text().splitlines()
    assert first.startswith(f"port-forward --namespace={deployed.system_namespace} --address=127.0.0.1 ")
    assert first.endswith("service/managed-session-dashboard :8000")
    assert second.endswith(f"service/managed-session-dashboard {port}:8000"), "the address stays"


async def test_command_says_what_is_missing(deployed: Site, tmp_path: Path) -> None:
    process = await start(deployed, str(tmp_path))
    printed, _ = await process.communicate()
    assert process.returncode == 1
    assert "kubectl is not on PATH" in printed.decode()
    where = f"--namespace={deployed.system_namespace}"
    await deployed.control_plane.kubectl("delete", "deployment", "managed-session-dashboard", where)
    process = await start(deployed, os.environ["PATH"])
    printed, _ = await process.communicate()
    assert process.returncode == 1
    assert "managed-sessions install --image IMAGE --dashboard" in printed.decode()
