"""`managed-sessions template list` and `prune`: what sandboxes, classes, sessions and settings use stays."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from e2b import E2B, AsyncTemplate
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane

from .command_line import E2B_KEY, Site, simulated_site

OURS = "managed-session-worker"
NAMES = ("running", "paused", "classy", "session", "docker", "docker-base", "old", "new", "newest")


@pytest.fixture(scope="module")
async def site(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with simulated_site(control_plane, tmp_path_factory.mktemp("clouds")) as site:
        assert (await site.install()).code == 0
        yield site


async def left(site: Site) -> set[str]:
    """The templates that E2B has, without their common beginning."""
    return {each["name"].removeprefix(f"{OURS}-") for each in await site.e2b.templates()}


async def apply(site: Site, kind: str, name: str, spec: dict[str, Any]) -> None:
    body = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    where = f"--namespace={site.namespace}"
    await site.control_plane.kubectl("apply", "--filename=-", where, input=json.dumps(body))


async def test_prune_deletes_only_what_nothing_refers_to(site: Site) -> None:
    e2b = E2B(api_key=E2B_KEY, api_url=site.e2b.url, sandbox_url=site.e2b.url)
    for name in (*(f"{OURS}-{each}" for each in NAMES), "somebody-elses"):
        await e2b.AsyncTemplate.build(AsyncTemplate().from_base_image(), f"{name}:v1")
    await e2b.AsyncSandbox.create(f"{OURS}-running:v1")
    # A sandbox of another installation that shares the team.
    other = await e2b.AsyncSandbox.create(
        f"{OURS}-paused:v1", metadata={names.METADATA_INSTALLATION: "another"}
    )
    await other.pause()
    await e2b.AsyncSandbox.create(f"{OURS}-docker:v1")
    await apply(site, names.CLASS_KIND, "gold", {"session": {"sandbox": {"template": f"{OURS}-classy:v1"}}})
    spec = {"sessionID": "sesn_1", "sandbox": {"template": f"{OURS}-session:v1"}}
    await apply(site, names.KIND, "by-hand", {**spec, "lifecycle": {"suspend": True}})

    listed = await site.run("template", "list")
    assert listed.code == 0, listed.text
    rows = {line.split()[0]: line.split()[1:] for line in listed.output.splitlines()}
    assert rows[f"{OURS}-classy"][-2:] == ["class", "gold"]
    assert rows[f"{OURS}-session"][-2:] == ["session", "by-hand"]
    # It is this version's. Sessions of other tests on the same cluster may name it too, and come first.
    assert rows[OURS][-1] != "-"
    paused = rows[f"{OURS}-paused"]
    assert (paused[0], paused[3:]) == ("v1", ["2", "1024", "1", "0", "-"])
    assert "somebody-elses" not in listed.output

    before = await left(site)
    dry = await site.run("template", "prune", "--keep=1", "--dry-run")
    assert dry.code == 0, dry.text
    assert "Dry run: nothing was deleted." in dry.output
    declined = await site.run("template", "prune", "--keep=1", answer="n\n")
    assert (declined.code, await left(site)) == (1, before)

    # A list that breaks off may hide a sandbox.
    await site.e2b.add_fault("list", {"status": 500}, times=50)
    broken = await site.run("template", "prune", "--keep=0", "--yes")
    assert (broken.code, await left(site)) == (1, before)
    await site.e2b.clear_faults()

    done = await site.run("template", "prune", "--keep=1", "--yes")
    assert done.code == 0, done.text
    assert before - await left(site) == {"old", "new"}
    assert f"{OURS}-paused: 1 sandbox of it, 1 paused" in done.output
    assert f"{OURS}-docker-base: {OURS}-docker is built from it" in done.output
    again = await site.run("template", "prune", "--keep=1", "--yes")
    assert (again.code, "Nothing to delete." in again.output) == (0, True)
    await other.kill()
    assert (await site.run("template", "prune", "--keep=0", "--yes")).code == 0
    assert before - await left(site) == {"old", "new", "newest", "paused"}
    assert "somebody-elses" in await left(site)
