"""Snapshots of sessions, as the resource and E2B have them."""

from __future__ import annotations

from typing import Any

from managed_session_devkit.system.local_system import LocalSystem

from .sessions import resource


async def snapshots_of(system: LocalSystem, session_id: str) -> list[dict[str, Any]]:
    """The snapshots that the resource says were taken, oldest first."""
    found = (await resource(system, session_id)).get("status", {}).get("snapshots", [])
    return [each for each in found if "id" in each]


async def kept_in_e2b(system: LocalSystem, *session_ids: str) -> set[str]:
    """The IDs of these sessions' snapshots that E2B has."""
    named = [str(each["name"]) for each in await system.e2b_admin.templates()]
    kept = [each for each in named if each.startswith("msess-")]
    return {f"team/{each}:default" for each in kept if any(one.lower() in each for one in session_ids)}
