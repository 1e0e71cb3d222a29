"""`managed-sessions uninstall`: nothing is left, in the right order, also where the operator is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import pytest
from managed_session_api import names
from managed_session_local.control_plane import ControlPlane, KubectlError
from managed_session_local.simulators.e2b.client import SimulatedSandbox
from managed_session_local.system import LocalSystem

from ..rights import expect_refusals
from .command_line import Site, simulated_site
from .sessions import begin, resource
from .systems import unique_name
from .waiting import eventually

KINDS = (
    "secrets,deployments,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets,networkpolicies,"
    "resourcequotas,leases,configmaps"
)
DEFINITION = f"{names.PLURAL}.{names.GROUP}"
OPERATOR = "managed-session-operator"


@pytest.fixture(scope="module")
async def clouds(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A control plane of its own: the definition of all namespaces is removed here."""
    async with (
        ControlPlane() as control_plane,
        simulated_site(control_plane, tmp_path_factory.mktemp("clouds")) as site,
    ):
        yield site


@pytest.fixture
async def site(clouds: Site) -> AsyncIterator[Site]:
    """An installation that was made by the command."""
    own = Site(clouds.control_plane, clouds.anthropic, clouds.e2b, clouds.settings, unique_name())
    ended = await own.install()
    assert ended.code == 0
    async with namespaces_end(own):
        yield own


@asynccontextmanager
async def namespaces_end(site: Site) -> AsyncIterator[None]:
    """Plays the namespace controller, which the control plane does not have: empty ones end."""

    async def play() -> None:
        while True:
            with suppress(KubectlError):
                listed = json.loads(await site.kubectl("get", "namespaces", "--output=json"))
                for each in listed["items"]:
                    if "deletionTimestamp" not in each["metadata"] or await left_in(
                        site, each["metadata"]["name"]
                    ):
                        continue
                    each["spec"]["finalizers"] = []
                    path = f"/api/v1/namespaces/{each['metadata']['name']}/finalize"
                    await site.control_plane.kubectl(
                        "replace", f"--raw={path}", "--filename=-", input=json.dumps(each)
                    )
            await asyncio.sleep(0.2)

    playing = asyncio.create_task(play())
    try:
        yield
    finally:
        playing.cancel()


async def left_in(site: Site, namespace: str) -> list[str]:
    """What is in a namespace."""
    found = await site.kubectl("get", KINDS, f"--namespace={namespace}", "--output=name")
    with suppress(KubectlError):
        found += await site.kubectl("get", names.PLURAL, f"--namespace={namespace}", "--output=name")
    return found.split()


async def nothing_is_left(site: Site) -> None:
    for namespace in (site.namespace, site.system_namespace):
        assert await site.get("namespace", namespace) == {}
        assert await left_in(site, namespace) == []
    alive = await site.e2b.sandboxes("running", "pausing", "paused", "killing")
    assert [each.id for each in alive] == []


async def sandboxes_of_site(site: Site, session_id: str) -> list[SimulatedSandbox]:
    """The session's sandboxes, all that ever were."""
    found = await site.e2b.sandboxes()
    return [each for each in found if each.metadata.get(names.METADATA_SESSION) == session_id]


async def serve_a_turn(system: LocalSystem) -> str:
    """Play a session's turn until its sandbox is paused; the session's ID."""
    async with begin(system) as conversation:
        assert await conversation.say("Run: echo hello") == "hello"
        session_id = conversation.session_id

    async def rests() -> bool:
        status = (await resource(system, session_id)).get("status", {})
        return bool(status.get("sandbox", {}).get("state") == "Paused")

    await eventually("the sandbox is paused", rests)
    return session_id


async def test_nothing_is_left_after_one_command(site: Site) -> None:
    with ExitStack() as rights_end:
        await uninstalled(site, rights_end)


async def uninstalled(site: Site, rights_end: ExitStack) -> None:
    async with site.running() as system:
        session_ids = [await serve_a_turn(system), await serve_a_turn(system)]
        # No kubelet ends the processes when their Deployments and rights are gone.
        for namespace in (site.namespace, site.system_namespace):
            rights_end.enter_context(expect_refusals(namespace))
        ended = await site.run("uninstall", "--yes", keys={})
        assert ended.code == 0, ended.text
        await nothing_is_left(site)
        assert await site.get("customresourcedefinition", DEFINITION) == {}
        assert "Claude Console" in ended.output
        assert "2 deleted" in ended.output
        for session_id in session_ids:
            [sandbox] = await sandboxes_of_site(site, session_id)
            assert sandbox.state == "killed"
