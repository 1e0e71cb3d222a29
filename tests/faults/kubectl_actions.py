"""What an administrator does to a session's resource with kubectl, and what it looks like then."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import resource, sandboxes_of
from ..support.waiting import eventually
from .scenario import Scenario


def name_of(conversation: Conversation) -> str:
    """The resource's name."""
    return names.resource_name(conversation.session_id)


async def patch(
    scenario: Scenario, conversation: Conversation, change: dict[str, Any], *, status: bool = False
) -> None:
    """Merge `change` into the resource, or into its status.

    Raises:
        KubectlError: the API server refuses it.
    """
    await scenario.system.kubectl(
        "patch", names.PLURAL, name_of(conversation), "--type=merge", f"--patch={json.dumps(change)}",
        *(["--subresource=status"] if status else []),
    )  # fmt: skip


async def wait_long_for_messages(scenario: Scenario, conversation: Conversation) -> None:
    """Let the session's workers wait ten seconds for the next message, before the first of them starts."""
    await eventually("the resource is there", lambda: resource(scenario.system, conversation.session_id))
    await patch(scenario, conversation, {"spec": {"worker": {"maxIdleSeconds": 10}}})


async def wipe_status(scenario: Scenario, conversation: Conversation) -> None:
    """Remove all of the status."""
    operation = [{"op": "replace", "path": "/status", "value": {}}]
    await scenario.system.kubectl(
        "patch", names.PLURAL, name_of(conversation), "--subresource=status", "--type=json",
        f"--patch={json.dumps(operation)}",
    )  # fmt: skip


async def delete(scenario: Scenario, conversation: Conversation) -> None:
    """Ask for the resource's deletion, without waiting for it."""
    await scenario.system.kubectl("delete", names.PLURAL, name_of(conversation), "--wait=false")


async def make_again(scenario: Scenario, body: dict[str, Any], **metadata: Any) -> None:
    """Make a resource that is gone anew: without status, and of its metadata with the name and `metadata`."""
    again = {key: body[key] for key in ("apiVersion", "kind", "spec")}
    again["metadata"] = {"name": body["metadata"]["name"], **metadata}
    await scenario.system.kubectl("create", "--filename=-", input=json.dumps(again))


async def delete_by_force(scenario: Scenario, conversation: Conversation) -> None:
    """Remove the finalizer and the resource while the operator is not looking: nobody cleans up."""
    async with frozen(scenario):
        await patch(scenario, conversation, {"metadata": {"finalizers": None}})
        await scenario.system.kubectl("delete", names.PLURAL, name_of(conversation))


@asynccontextmanager
async def frozen(scenario: Scenario) -> AsyncIterator[None]:
    """The operator does nothing while the block lasts."""
    process = scenario.system.operator.process
    process.freeze()
    try:
        yield
    finally:
        process.thaw()


async def status(scenario: Scenario, conversation: Conversation) -> dict[str, Any]:
    """The resource's status; empty where there is none."""
    found: dict[str, Any] = (await resource(scenario.system, conversation.session_id)).get("status", {})
    return found


async def uid(scenario: Scenario, conversation: Conversation) -> str:
    """The resource's UID; empty where there is none."""
    found = await resource(scenario.system, conversation.session_id)
    return str(found["metadata"]["uid"]) if found else ""


async def becomes_phase(
    scenario: Scenario, conversation: Conversation, phase: str, *, seconds: float = 60
) -> None:
    """Wait until the resource is in this phase."""

    async def look() -> bool:
        return (await status(scenario, conversation)).get("phase") == phase

    await eventually(f"the phase is {phase}", look, seconds=seconds)


async def sandbox_killed(system: LocalSystem, session_id: str, sandbox_id: str) -> None:
    """Wait until this sandbox of the session is gone."""

    async def look() -> bool:
        return sandbox_id in {each.id for each in await sandboxes_of(system, session_id, "killed")}

    await eventually("the sandbox is killed", look)
