"""A tool that applies what is in Git again and again, and the operator: neither undoes the other's work."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_cli.manifests import load_manifests
from managed_session_devkit.control_plane import ControlPlane, KubectlError
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, becomes, begin, resource, resyncs_pass
from ..support.systems import local_system

TOOLS = ("argocd-controller", "kustomize-controller")
"""The field managers of Argo CD and Flux."""
Objects = dict[tuple[str, str, str], dict[str, Any]]


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[LocalSystem]:
    async with ControlPlane() as plane, local_system(plane, operator_settings=QUICK) as running:
        yield running


def documents(objects: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


async def apply(system: LocalSystem, tool: str, objects: list[dict[str, Any]], *options: str) -> Objects:
    """Apply the objects server-side as this tool, and return what the API server then has."""
    applied = await system.control_plane.kubectl(
        "apply", "--server-side", f"--field-manager={tool}", *options, "--filename=-", "--output=json",
        input=documents(objects),
    )  # fmt: skip
    found = json.loads(applied)
    items = found["items"] if found["kind"] == "List" else [found]
    return {(e["kind"], e["metadata"].get("namespace", ""), e["metadata"]["name"]): e for e in items}


def contents(objects: Objects) -> Objects:
    """The objects without what every write changes."""
    return {
        name: {**each, "metadata": {**each["metadata"], "managedFields": None, "resourceVersion": None}}
        for name, each in objects.items()
    }


async def differences(system: LocalSystem, tool: str, objects: list[dict[str, Any]]) -> str:
    """What `kubectl diff` shows; empty if a tool that compares sees nothing to do."""
    try:
        return await system.control_plane.kubectl(
            "diff", "--server-side", f"--field-manager={tool}", "--filename=-", input=documents(objects)
        )
    except KubectlError as error:
        return str(error)


async def test_a_second_tool_changes_nothing_of_the_manifests_and_conflicts_with_nothing(
    system: LocalSystem,
) -> None:
    manifests = load_manifests(system.namespace, system.system_namespace)
    first = await apply(system, TOOLS[0], manifests, "--force-conflicts")
    second = await apply(system, TOOLS[1], manifests)
    assert len(second) == len(manifests)
    assert contents(second) == contents(first)
    assert await apply(system, TOOLS[1], manifests) == second
    assert await differences(system, TOOLS[1], manifests) == ""


async def test_sessions_and_classes_in_git_are_served_and_stay_in_sync(system: LocalSystem) -> None:
    tool = TOOLS[0]
    session = await system.user.beta.sessions.create(
        agent=system.agent_id, environment_id=system.clouds.environment_id
    )
    name = names.resource_name(session.id)
    in_git = [
        {
            "apiVersion": names.API_VERSION,
            "kind": names.CLASS_KIND,
            "metadata": {"name": "gold", "namespace": system.namespace},
            "spec": {
                "selector": {"agentIDs": [system.agent_id]},
                "session": {"sandbox": {"env": {"TEAM": "gold"}}},
            },
        },
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": name, "namespace": system.namespace, "labels": {"from": "git"}},
            "spec": {"sessionID": session.id, "worker": {"maxIdleSeconds": 1}},
        },
    ]
    await apply(system, tool, in_git)
    async with Conversation.join(system.user, session.id) as conversation:
        assert await conversation.say("Run: echo $TEAM") == "gold"
    await becomes(system, session.id, "Idle", status="True")
    await resyncs_pass(system, 2)
    before = await resource(system, session.id)
    assert await differences(system, tool, in_git) == ""
    applied = await apply(system, tool, in_git)
    assert applied[names.KIND, system.namespace, name] == before
    assert await apply(system, tool, in_git) == applied


def paths(fields: dict[str, Any], depth: int) -> set[str]:
    """The owned fields, down to this depth, such as `spec.agentID`."""
    found = set()
    for key, below in fields.items():
        if key == ".":
            continue
        name = key.removeprefix("f:").removeprefix("v:").strip('"')
        deeper = paths(below, depth - 1) if depth > 1 else set()
        found |= {f"{name}.{each}" for each in deeper} or {name}
    return found


async def test_each_writer_owns_what_the_page_says(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        assert await conversation.say("Run: echo hello") == "hello"
        await becomes(system, conversation.session_id, "Idle", status="True")
    name = names.resource_name(conversation.session_id)
    found = await system.kubectl("get", names.PLURAL, name, "--show-managed-fields", "--output=json")
    owned: dict[str, set[str]] = {}
    for entry in json.loads(found)["metadata"]["managedFields"]:
        depth = 3 if entry.get("subresource") is None else 2
        owned.setdefault(entry["manager"], set()).update(paths(entry["fieldsV1"], depth))
    webhook, operator = owned.pop("managed-session-webhook"), owned.pop("managed-session-operator")
    assert owned == {}
    assert webhook == {
        f"metadata.labels.{names.LABEL_MANAGED_BY}",
        "spec.sessionID",
        "status.lastEvent",
    }
    assert {each for each in operator if not each.startswith("status.")} == {
        f"metadata.annotations.{names.ANNOTATION_IDENTITY}",
        f"metadata.finalizers.{names.FINALIZER}",
        "spec.agentID",
        "spec.environmentID",
    }
    page = (Path(__file__).parents[2] / "docs/gitops.md").read_text()
    table = page.partition("\n## Who writes what\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", table, re.MULTILINE))
    for who, fields in (("webhook", webhook), ("operator", operator)):
        spec = {each for each in fields if each.startswith("spec.")}
        assert set(re.findall(r"`(spec\.\w+)`", rows[who])) == spec
    assert "`status.lastEvent`" in rows["webhook"]
    assert f"`{names.FINALIZER}`" in rows["operator"]
    assert f"`{names.ANNOTATION_IDENTITY}`" in rows["operator"]
