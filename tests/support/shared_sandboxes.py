"""Sandboxes that sessions share, in E2B and in the API server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem

from .sessions import condition

GATE = "/home/agent/go"
"""Outside the sessions' own folders, so the test finds it in the machine."""

UNTIL_LET_GO = f"until test -e {GATE}; do sleep 0.1; done"
"""Begins a command of a session that shares its sandbox."""


async def shared_sandboxes(system: LocalSystem, *states: str) -> list[SimulatedSandbox]:
    """The shared sandboxes in E2B, by default all that ever were."""
    found = await system.e2b_admin.sandboxes(*states)
    return [each for each in found if names.METADATA_SHARED in each.metadata]


async def owners(system: LocalSystem) -> list[dict[str, Any]]:
    """The ManagedSandboxes."""
    found: list[dict[str, Any]] = json.loads(
        await system.kubectl("get", names.SHARED_PLURAL, "--output=json")
    )["items"]
    return found


def lost(system: LocalSystem, conversation: Conversation) -> Callable[[], Awaitable[bool]]:
    """Whether the session reports that its files are lost."""

    async def look() -> bool:
        return (await condition(system, conversation.session_id, "WorkspaceLost")).get("status") == "True"

    return look
