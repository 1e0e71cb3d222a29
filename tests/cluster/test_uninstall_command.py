"""`managed-sessions uninstall`: nothing is left, in the right order, also where the operator is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from managed_session_api import names
from managed_session_cli.installation import Installation
from managed_session_devkit.control_plane import ControlPlane, KubectlError, established
from managed_session_devkit.system.local_system import LocalSystem

from ..rights import expect_refusals
from ..support.sessions import begin, resource
from ..support.systems import unique_name
from ..support.waiting import eventually
from .command_line import Ended, Site, simulated_site

KINDS = (
    "secrets,deployments,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets,networkpolicies,"
    "resourcequotas,leases,configmaps"
)
DEFINITION = f"{names.PLURAL}.{names.GROUP}"
CLASSES = f"{names.CLASS_PLURAL}.{names.GROUP}"
SHARED = f"{names.SHARED_PLURAL}.{names.GROUP}"
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
    async with installed(clouds, unique_name()) as own:
        yield own


@asynccontextmanager
async def installed(clouds: Site, namespace: str) -> AsyncIterator[Site]:
    """An installation that was made by the command, in this namespace and in `…-system`."""
    own = Site(clouds.control_plane, clouds.anthropic, clouds.e2b, clouds.settings, namespace)
    await own.anthropic.reset()  # no work that an earlier test left in the queue
    ended = await own.install()
    assert ended.code == 0, ended.text
    with own.rights_end:
        async with namespaces_end(own):
            yield own


async def uninstall(site: Site, *options: str) -> Ended:
    """`managed-sessions uninstall` without a question."""
    # No kubelet ends the processes when their Deployments and rights are gone.
    for namespace in (site.namespace, site.system_namespace):
        site.rights_end.enter_context(expect_refusals(namespace))
    return await site.run("uninstall", "--yes", *options, keys={})


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


async def sessions_in(site: Site, namespace: str) -> list[str]:
    """Names of the namespace's ManagedSessions."""
    return (await site.kubectl("get", names.PLURAL, f"--namespace={namespace}", "--output=name")).split()


async def nothing_is_left(site: Site) -> None:
    for namespace in (site.namespace, site.system_namespace):
        assert await site.get("namespace", namespace) == {}
        assert await left_in(site, namespace) == []
    alive = await site.e2b.sandboxes("running", "pausing", "paused", "killing")
    assert [each.id for each in alive] == []


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


async def doctor_looks_at_the_dashboard(site: Site) -> None:
    """`doctor` sees that no pod runs here, that the rights are complete, and which ones are taken away."""

    async def said() -> dict[str, dict[str, str]]:
        found = json.loads((await site.run("doctor", "--json", keys={})).output)
        return {each["check"]: each for each in found if "dashboard" in each["check"]}

    checks = await said()
    assert {name: each["result"] for name, each in checks.items()} == {
        "managed-session-dashboard": "failed",
        "dashboard rights": "ok",
        "dashboard sign-in": "ok",
    }
    assert "managed-sessions dashboard" in checks["dashboard sign-in"]["detail"]
    binding = "managed-session-dashboard"
    await site.kubectl("delete", "rolebinding", binding, f"--namespace={site.namespace}")

    async def noticed() -> str | None:
        rights = (await said())["dashboard rights"]
        return rights["detail"] if rights["result"] == "failed" else None

    detail = await eventually("the doctor notices", noticed)
    assert f"watch managedsessions.managedagents.dev in {site.namespace}" in detail


async def test_dashboard_survives_an_upgrade_and_goes_with_the_rest(site: Site) -> None:
    name = "managed-session-dashboard"
    binding = f"{name}-{site.system_namespace}"
    assert await site.get("deployment", name, site.system_namespace) == {}, "it is optional"
    assert (await site.install("--dashboard")).code == 0
    upgraded = await site.run("install", "--image=registry.example.com/sessions:next", "--yes", "--no-wait")
    assert f"Deployment {name}" in upgraded.output
    deployment = await site.get("deployment", name, site.system_namespace)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/sessions:next"
    assert {"name": "MANAGED_SESSIONS_NAMESPACE", "value": site.namespace} in container["env"]
    (subject,) = (await site.get("clusterrolebinding", binding))["subjects"]
    assert subject["namespace"] == site.system_namespace
    await doctor_looks_at_the_dashboard(site)
    assert (await uninstall(site, "--keep-crd")).code == 0
    await nothing_is_left(site)
    assert await site.get("clusterrolebinding", binding) == {}
    assert await site.get("clusterrole", name), "another installation may need it"


@pytest.mark.timeout(600)
async def test_nothing_is_left_after_one_command_although_sessions_begin_meanwhile(clouds: Site) -> None:
    async with installed(clouds, names.RESOURCE_NAMESPACE) as site, site.running() as system:
        session_ids = [await serve_a_turn(system), await serve_a_turn(system)]
        refused = await site.run("uninstall", answer="n\n", keys={})
        assert refused.code == 1
        assert "remove the webhook endpoint in the Claude Console" in refused.output
        assert len(await sessions_in(site, site.namespace)) == 2

        talking = asyncio.create_task(keep_beginning_sessions(system))
        try:
            ended = await uninstall(site)
        finally:
            talking.cancel()
        assert ended.code == 0, ended.text
        assert "the operator confirmed that their sandboxes are gone" in ended.output
        await nothing_is_left(site)
        assert (await site.kubectl("get", "validatingadmissionpolicies", "--output=name")).split() == []
        for definition in (DEFINITION, CLASSES, SHARED):
            assert await site.get("customresourcedefinition", definition) == {}
        for session_id in session_ids:
            [sandbox] = await site.sandboxes_of(session_id)
            assert sandbox.state == "killed"
    again = await site.run("uninstall", "--yes", keys={})
    assert again.code == 0, again.text
    assert "nothing to remove" in again.output


async def keep_beginning_sessions(system: LocalSystem) -> None:
    while True:
        async with begin(system) as conversation:
            await conversation.send("Run: echo hello")
        await asyncio.sleep(1)


async def test_sandbox_that_cannot_be_killed_is_named_and_a_repetition_goes_on(site: Site) -> None:
    async with site.running() as system:
        session_id = await serve_a_turn(system)
        await site.e2b.add_fault("kill", {"status": 503}, times=10_000)
        ended = await uninstall(site, "--keep-crd", "--timeout=8")
        assert ended.code == 1
        assert session_id in ended.errors
        assert "CleanupBlocked" in ended.errors
        await site.e2b.clear_faults()
        ended = await uninstall(site, "--keep-crd")
        assert ended.code == 0, ended.text
        await nothing_is_left(site)


async def test_where_the_operator_is_gone_it_says_so_and_force_does_its_part(site: Site) -> None:
    other = await session_of_another_installation(site)
    async with site.running() as system:
        await serve_a_turn(system)
        async with begin(system) as conversation:
            await conversation.send("Run: sleep 600")
            session_id = conversation.session_id

            async def works() -> bool:
                status = (await resource(system, session_id)).get("status", {})
                return "firstHeartbeatAt" in status.get("work", {})

            await eventually("the worker works", works)
        await system.operator.kill()
        await lease_is_old(site)
        ended = await uninstall(site)
        assert ended.code == 1
        assert f"the operator is gone, and {site.namespace} still has 2 ManagedSessions" in ended.errors
        assert "--force" in ended.errors
        assert len(await sessions_in(site, site.namespace)) == 2
        assert await site.get("deployment", "managed-session-webhook", site.system_namespace) != {}

        ended = await uninstall(site, "--force")
        assert ended.code == 0, ended.text
        assert "2 sandboxes killed, 1 work item stopped" in ended.output
        await nothing_is_left(site)
        report = await site.anthropic.session(session_id)
        assert report.work is not None
        assert report.work["state"] == "stopped"
    # What another installation uses stays.
    assert f"there are ManagedSessions in other namespaces ({other})" in ended.output
    assert await sessions_in(site, other) != []
    assert await site.get("clusterrole", "managed-sessions-view") != {}


async def test_who_may_act_in_given_namespaces_alone_removes_everything_but_these(clouds: Site) -> None:
    site = Site(clouds.control_plane, clouds.anthropic, clouds.e2b, clouds.settings, unique_name())
    await site.anthropic.reset()
    tenant = await given_namespaces_with_an_installation(site)
    with site.rights_end:
        async with site.running() as system:
            session_id = await serve_a_turn(system)
            for namespace in (site.namespace, site.system_namespace):
                # The local system has taken them for its own.
                await site.kubectl("label", "namespace", namespace, "app.kubernetes.io/part-of-")
            ended = await uninstall(site, f"--kubeconfig={tenant}")
    assert ended.code == 0, ended.text
    assert f"The namespace {site.namespace} stays" in ended.output
    assert f"the CRDs {DEFINITION}, {CLASSES} and {SHARED} stay: you lack permissions" in ended.output
    [sandbox] = await site.sandboxes_of(session_id)
    assert sandbox.state == "killed"
    for namespace in (site.namespace, site.system_namespace):
        assert "deletionTimestamp" not in (await site.get("namespace", namespace))["metadata"]
        left = await site.kubectl("get", KINDS, f"--namespace={namespace}", "--output=name")
        assert [each for each in left.split() if not each.endswith("/tenant")] == []
    assert await site.get("customresourcedefinition", DEFINITION) != {}


async def given_namespaces_with_an_installation(site: Site) -> Path:
    """As a platform team gives them, with an installation without what is cluster-wide; the tenant's file."""
    for namespace in (site.namespace, site.system_namespace):
        await site.kubectl("create", "namespace", namespace)
    await site.kubectl("create", "serviceaccount", "tenant", f"--namespace={site.system_namespace}")
    for namespace in (site.namespace, site.system_namespace):
        rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "tenant", "namespace": namespace},
            "rules": rules,
        }
        await site.control_plane.kubectl("create", "--filename=-", input=json.dumps(role))
        await site.kubectl(
            "create", "rolebinding", "tenant", f"--namespace={namespace}", "--role=tenant",
            f"--serviceaccount={site.system_namespace}:tenant",
        )  # fmt: skip
    manifests = Installation(site.namespace, site.system_namespace).manifests("any")
    wide = [each for each in manifests if each["kind"] == "CustomResourceDefinition"]
    await apply(site, wide)
    await established(site.kubectl, DEFINITION)
    await apply(site, [each for each in manifests if "namespace" in each["metadata"]])
    return await site.control_plane.service_account_kubeconfig(site.system_namespace, "tenant")


async def apply(site: Site, objects: list[dict[str, Any]]) -> None:
    content = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    await site.control_plane.kubectl("apply", "--server-side", "--filename=-", input=content)


async def session_of_another_installation(site: Site) -> str:
    """Make a resource in a namespace of its own; the namespace."""
    other = unique_name()
    await site.kubectl("create", "namespace", other)
    foreign = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "foreign", "namespace": other},
        "spec": {"sessionID": "sesn_foreign"},
    }
    await site.control_plane.kubectl("create", "--filename=-", input=json.dumps(foreign))
    return other


async def lease_is_old(site: Site) -> None:
    """Make the killed leader's Lease look as if time had passed."""
    patch = {"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}
    await site.kubectl(
        "patch", "lease", OPERATOR, f"--namespace={site.system_namespace}", "--type=merge",
        f"--patch={json.dumps(patch)}",
    )  # fmt: skip
