"""What an administrator does to a session's resource with kubectl, and what it looks like then."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from managed_session_api import names
from managed_session_local.conversation import Conversation
from managed_session_local.system import LocalSystem

from ..cluster.sessions import resource, sandboxes_of
from ..cluster.waiting import eventually
from .scene import Scene


def name_of(conversation: Conversation) -> str:
    """The resource's name."""
    return names.resource_name(conversation.session_id)


async def patch(
    scene: Scene, conversation: Conversation, change: dict[str, Any], *, status: bool = False
) -> None:
    """Merge `change` into the resource, or into its status.

    Raises:
        KubectlError: the API server refuses it.
    """
    await scene.system.kubectl(
        "patch", names.PLURAL, name_of(conversation), "--type=merge", f"--patch={json.dumps(change)}",
        *(["--subresource=status"] if status else []),
    )  # fmt: skip


async def wipe_status(scene: Scene, conversation: Conversation) -> None:
    """Remove all of the status."""
    operation = [{"op": "replace", "path": "/status", "value": {}}]
    await scene.system.kubectl(
        "patch", names.PLURAL, name_of(conversation), "--subresource=status", "--type=json",
        f"--patch={json.dumps(operation)}",
    )  # fmt: skip


async def delete(scene: Scene, conversation: Conversation) -> None:
    """Ask for the resource's deletion, without waiting for it."""
    await scene.system.kubectl("delete", names.PLURAL, name_of(conversation), "--wait=false")


async def make_again(scene: Scene, body: dict[str, Any], **metadata: Any) -> None:
    """Make a resource that is gone anew: without status, and of its metadata with the name and `metadata`."""
    again = {key: body[key] for key in ("apiVersion", "kind", "spec")}
    again["metadata"] = {"name": body["metadata"]["name"], **metadata}
    await scene.system.kubectl("create", "--filename=-", input=json.dumps(again))


async def delete_by_force(scene: Scene, conversation: Conversation) -> None:
    """Remove the finalizer and the resource while the operator is not looking: nobody cleans up."""
    async with frozen(scene):
        await patch(scene, conversation, {"metadata": {"finalizers": None}})
        await scene.system.kubectl("delete", names.PLURAL, name_of(conversation))


@asynccontextmanager
async def frozen(scene: Scene) -> AsyncIterator[None]:
    """The operator does nothing while the block lasts."""
    process = scene.system.operator.process
    process.freeze()
    try:
        yield
    finally:
        process.thaw()


async def status(scene: Scene, conversation: Conversation) -> dict[str, Any]:
    """The resource's status; empty where there is none."""
    found: dict[str, Any] = (await resource(scene.system, conversation.session_id)).get("status", {})
    return found


async def uid(scene: Scene, conversation: Conversation) -> str:
    """The resource's UID; empty where there is none."""
    found = await resource(scene.system, conversation.session_id)
    return str(found["metadata"]["uid"]) if found else ""


async def becomes_phase(scene: Scene, conversation: Conversation, phase: str) -> None:
    """Wait until the resource is in this phase."""

    async def look() -> bool:
        return (await status(scene, conversation)).get("phase") == phase

    await eventually(f"the phase is {phase}", look)


async def sandbox_killed(system: LocalSystem, session_id: str, sandbox_id: str) -> None:
    """Wait until this sandbox of the session is gone."""

    async def look() -> bool:
        return sandbox_id in {each.id for each in await sandboxes_of(system, session_id, "killed")}

    await eventually("the sandbox is killed", look)
