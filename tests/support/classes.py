"""Classes of a running system, as a platform team makes them and as tests look at them."""

from __future__ import annotations

import json
from typing import Any

from managed_session_api import names
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem

from .sessions import condition, resource, sandboxes_of
from .waiting import eventually

DENIED = "198.51.100.0/24"
"""A range of addresses that nobody uses, to tell network rules apart."""


async def apply_class(system: LocalSystem, name: str, spec: dict[str, Any]) -> None:
    """Make the class, or change it to this spec."""
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.CLASS_KIND,
        "metadata": {"name": name},
        "spec": spec,
    }
    await system.kubectl("apply", "--filename=-", input=json.dumps(body))


async def of_the_agents_name(system: LocalSystem) -> dict[str, Any]:
    """Return the spec of a class for the system's agent, by a name that the API server does not know."""
    agent = await system.user.beta.agents.retrieve(system.agent_id)
    return {"selector": {"agentNames": [agent.name]}}


async def change_class(system: LocalSystem, name: str, **spec: Any) -> None:
    """Merge into the class's spec."""
    patch = f"--patch={json.dumps({'spec': spec})}"
    await system.kubectl("patch", names.CLASS_PLURAL, name, "--type=merge", patch)


async def delete_classes(system: LocalSystem, *classes: str) -> None:
    """Delete these classes; all of them by default."""
    await system.kubectl("delete", names.CLASS_PLURAL, *(classes or ["--all"]), "--ignore-not-found")


async def class_status(system: LocalSystem, name: str) -> dict[str, Any]:
    """Return the class's status."""
    found = json.loads(await system.kubectl("get", names.CLASS_PLURAL, name, "--output=json"))
    status: dict[str, Any] = found.get("status", {})
    return status


async def class_becomes(system: LocalSystem, name: str, reason: str) -> dict[str, Any]:
    """Wait until the class's Ready condition has this reason, and return its status."""

    async def look() -> dict[str, Any] | None:
        status = await class_status(system, name)
        return status if reason in [each["reason"] for each in status.get("conditions", [])] else None

    return await eventually(f"class {name} is {reason}", look)


async def class_known(system: LocalSystem, name: str) -> None:
    """Wait until the operator has seen the class's newest version."""

    async def look() -> bool:
        found = json.loads(await system.kubectl("get", names.CLASS_PLURAL, name, "--output=json"))
        seen = found.get("status", {}).get("observedGeneration")
        return bool(seen == found["metadata"]["generation"])

    await eventually(f"the operator knows class {name}", look)


async def make_class(system: LocalSystem, name: str, spec: dict[str, Any]) -> None:
    """Make the class, or change it to this spec, and wait until the operator knows it."""
    await apply_class(system, name, spec)
    await class_known(system, name)


async def policy_says(system: LocalSystem, session_id: str, reason: str | None) -> str:
    """Wait until PolicyApplied has this reason (None: is not there), and return its message."""

    async def look() -> bool:
        return (await condition(system, session_id, "PolicyApplied")).get("reason") == reason

    await eventually(f"PolicyApplied because of {reason}", look)
    return str((await condition(system, session_id, "PolicyApplied")).get("message", ""))


async def effective(system: LocalSystem, session_id: str) -> dict[str, Any]:
    """Return `status.effective`."""
    found: dict[str, Any] = (await resource(system, session_id))["status"]["effective"]
    return found


async def class_of(system: LocalSystem, session_id: str) -> str | None:
    """Return the name of the class that the session records."""
    recorded = (await resource(system, session_id)).get("status", {}).get("class")
    return recorded["name"] if recorded else None


async def only_sandbox(system: LocalSystem, session_id: str) -> SimulatedSandbox:
    """Return the session's one sandbox that is alive."""
    (sandbox,) = [each for each in await sandboxes_of(system, session_id) if each.state != "killed"]
    return sandbox


async def denied(system: LocalSystem, session_id: str) -> list[str]:
    """Return which addresses the session's sandbox may not reach."""
    return list((await only_sandbox(system, session_id)).raw["network"].get("denyOut") or [])
