"""A namespace that is restored from a backup keeps the sandboxes of its sessions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane, established
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, becomes, begin, paused, resource, sandboxes_of
from ..support.systems import local_system
from ..support.waiting import eventually

GIVEN_BY_THE_SERVER = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")


@pytest.fixture(scope="module")
async def control_plane() -> AsyncIterator[ControlPlane]:
    """One of its own: the resource's definition is removed from it."""
    async with ControlPlane() as running:
        yield running


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    settings = {**QUICK, "attach_timeout_seconds": "2"}
    async with local_system(control_plane, operator_settings=settings) as running:
        yield running


async def backup(system: LocalSystem) -> list[dict[str, Any]]:
    """All resources, as `kubectl get` shows them."""
    items: list[dict[str, Any]] = json.loads(await system.kubectl("get", names.PLURAL, "--output=json"))[
        "items"
    ]
    return items


async def wipe(system: LocalSystem) -> None:
    """Scale both to zero, and lose all that etcd has of the resources; nobody kills a sandbox then."""
    await system.webhook.process.stop()
    await system.operator.process.stop()
    kubectl = system.control_plane.kubectl
    for name in (await system.kubectl("get", names.PLURAL, "--output=name")).split():
        await system.kubectl("patch", name, "--type=merge", '--patch={"metadata":{"finalizers":null}}')
    await system.kubectl("delete", names.PLURAL, "--all")
    await system.kubectl("delete", "secrets", "--all")
    await kubectl("delete", "customresourcedefinition", f"{names.PLURAL}.{names.GROUP}")
    await kubectl(f"--namespace={system.system_namespace}", "delete", "lease", "--all")


async def restore(system: LocalSystem, items: list[dict[str, Any]], *, status: bool = False) -> None:
    """Make the resources again, with new UIDs; without their status, as Velero does by default.

    An event that comes late may have made one that has no status yet.
    """
    definition = Path(__file__).parents[2] / "crds/managedsessions.yaml"
    await system.control_plane.kubectl("apply", "--server-side", f"--filename={definition}")
    await established(system.control_plane.kubectl)
    for item in items:
        metadata = {k: v for k, v in item["metadata"].items() if k not in GIVEN_BY_THE_SERVER}
        bare = {**item, "metadata": metadata}
        saved = bare.pop("status", None)
        await system.kubectl("create", "--filename=-", input=json.dumps(bare))
        if status and saved is not None:
            patch = json.dumps({"status": saved})
            name = f"{names.PLURAL}/{metadata['name']}"
            await system.kubectl("patch", name, "--subresource=status", "--type=merge", f"--patch={patch}")


async def scale_up(system: LocalSystem) -> None:
    for pod in (system.webhook, system.operator):
        await pod.start()
        await pod.wait_ready()


async def first_turn(system: LocalSystem, conversation: Conversation) -> str:
    """A turn that leaves a file; returns the sandbox, paused."""
    assert "kept" in await conversation.say("Run: echo kept | tee /mnt/session/file")
    await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
    await becomes(system, conversation.session_id, "Idle", status="True")
    (sandbox,) = await sandboxes_of(system, conversation.session_id)
    return sandbox.id


async def test_next_turn_finds_the_files_in_the_same_sandbox(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        sandbox_id = await first_turn(system, conversation)
        before = (await resource(system, session_id))["metadata"]["uid"]
        items = await backup(system)
        await wipe(system)
        await conversation.send("Run: cat /mnt/session/file")
        await restore(system, items)
        await scale_up(system)
        assert "kept" in await conversation.answer(), "though the message is there before the first resync"
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        assert [each.id for each in await sandboxes_of(system, session_id)] == [sandbox_id]
        assert (await resource(system, session_id))["metadata"]["uid"] != before
        await system.kubectl("delete", names.PLURAL, names.resource_name(session_id), "--timeout=50s")
        assert (await system.e2b_admin.sandbox(sandbox_id)).state == "killed", "deletion takes it along"


async def test_a_status_from_an_old_backup_costs_no_newer_files(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        old = await first_turn(system, conversation)
        items = await backup(system)
        await system.e2b_admin.vanish(old)
        new = await first_turn_again(system, conversation, old)
        await wipe(system)
        await restore(system, items, status=True)
        await scale_up(system)
        assert "newer" in await conversation.say("Run: cat /mnt/session/file")
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        alive = [each.id for each in await sandboxes_of(system, session_id) if each.state == "paused"]
        assert alive == [new]


async def first_turn_again(system: LocalSystem, conversation: Conversation, lost: str) -> str:
    assert "newer" in await conversation.say("Run: echo newer | tee /mnt/session/file")
    await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
    alive = [
        each.id for each in await sandboxes_of(system, conversation.session_id) if each.state == "paused"
    ]
    assert alive != [lost]
    return alive[0]


async def test_resources_restored_under_a_running_operator_find_their_sandboxes_within_the_grace_period(
    system: LocalSystem,
) -> None:
    # Its resource is made by the operator, and so has an identity that was never its UID.
    await system.webhook.process.stop()
    async with begin(system) as conversation:
        session_id = conversation.session_id
        sandbox_id = await first_turn(system, conversation)
        items = await backup(system)
        await wipe(system)
        await restore(system, [])
        await system.operator.restart(orphan_grace_seconds="3600")
        swept = await resyncs(system)

        async def swept_often() -> bool:
            return await resyncs(system) >= swept + 3

        await eventually("it has swept three times without a resource", swept_often)
        assert (await system.e2b_admin.sandbox(sandbox_id)).state == "paused"
        await restore(system, items)

        async def known_again() -> bool:
            found = await resource(system, session_id)
            return bool(found.get("status", {}).get("sandbox", {}).get("id") == sandbox_id)

        await eventually("a resync knows the sandbox again", known_again)
        assert await paused(system, session_id), "and did not wake it"
        assert "kept" in await conversation.say("Run: cat /mnt/session/file")
    await system.operator.process.stop()
    system.operator.change_settings(orphan_grace_seconds="0")
    await scale_up(system)


async def resyncs(system: LocalSystem) -> int:
    return int((await system.e2b_admin.ledger()).operations.get("list", 0))


async def test_a_copy_that_is_deleted_does_not_take_the_sandbox_along(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        sandbox_id = await first_turn(system, conversation)
        items = await backup(system)
        item = next(each for each in items if each["spec"]["sessionID"] == conversation.session_id)
        item["metadata"]["name"] = "copy"
        await restore(system, [item])
        await system.kubectl(
            "wait", f"{names.PLURAL}/copy", "--timeout=50s",
            "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=DuplicateSession",
        )  # fmt: skip
        await system.kubectl("delete", names.PLURAL, "copy", "--timeout=50s")
        assert "kept" in await conversation.say("Run: cat /mnt/session/file")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        assert [each.id for each in await sandboxes_of(system, conversation.session_id)] == [sandbox_id]
