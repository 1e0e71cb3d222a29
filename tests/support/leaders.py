"""Which operator leads, as the Lease says, and changing it by hand."""

from __future__ import annotations

import json
from typing import Any

from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.pod import Pod

from .waiting import eventually

LEASE = "managed-session-operator"


async def lease(system: LocalSystem) -> dict[str, Any]:
    """The Lease's spec; empty where there is none."""
    found = await system.control_plane.kubectl(
        f"--namespace={system.system_namespace}", "get", "lease", LEASE, "--ignore-not-found", "--output=json"
    )
    spec: dict[str, Any] = json.loads(found)["spec"] if found else {}
    return spec


async def change_lease(system: LocalSystem, **spec: object) -> None:
    """Write these fields into the Lease."""
    await system.control_plane.kubectl(
        f"--namespace={system.system_namespace}", "patch", "lease", LEASE, "--type=merge",
        f"--patch={json.dumps({'spec': spec})}",
    )  # fmt: skip


async def delete_lease(system: LocalSystem) -> None:
    """Remove the Lease."""
    await system.control_plane.kubectl(f"--namespace={system.system_namespace}", "delete", "lease", LEASE)


async def leader(system: LocalSystem, other_than: Pod | None = None) -> Pod:
    """Wait until an operator (another one than this) leads; its process ID is part of its identity."""

    async def look() -> Pod | None:
        holder = (await lease(system)).get("holderIdentity") or ""
        found = [pod for pod in system.operators if f"-{pod.process.pid}-" in holder]
        return found[0] if found and found[0] is not other_than else None

    return await eventually("an operator leads", look)
