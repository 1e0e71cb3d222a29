"""Warnings that rows expect."""

from __future__ import annotations

from managed_session_local.system import LocalSystem

from ...cluster.sessions import events_of, resource
from ...cluster.waiting import eventually


async def warned(system: LocalSystem, session_id: str, reason: str) -> None:
    """Wait for a Warning Event with this reason."""

    async def look() -> bool:
        return ("Warning", reason) in await events_of(system, session_id)

    await eventually(f"a Warning Event {reason}", look)


async def workspace_lost(system: LocalSystem, session_id: str) -> None:
    """Wait until the resource says that the session's files are gone."""

    async def look() -> bool:
        conditions = (await resource(system, session_id)).get("status", {}).get("conditions", [])
        return any(each["type"] == "WorkspaceLost" and each["status"] == "True" for each in conditions)

    await eventually("WorkspaceLost is True", look)
