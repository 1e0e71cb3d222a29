"""Sessions of a running system, their resources and their sandboxes, as tests look at them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.simulators.e2b.client import LedgerView, SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem

from .waiting import eventually

QUICK = {
    "lease_duration_seconds": "4",
    "lease_renew_seconds": "0.5",
    "request_timeout_seconds": "3.5",
    "create_timeout_seconds": "3.5",
    "kubernetes_timeout_seconds": "3.5",
    "reclaim_seconds": "3",
    "resync_interval_seconds": "1",
    "orphan_grace_seconds": "0",
    "retry_scale": "0.1",
    "max_idle_seconds": "1",
    "sandbox_creation_rate": "50",
    "sandbox_creation_burst": "50",
}
"""Settings of an operator whose slow clocks run fast."""

TOTALS_OF_TROUBLE = (
    "lease_conflicts",
    "leases_lapsed",
    "results_repeated",
    "results_rejected",
    "results_without_lease",
    "worker_streams_overlapping",
    "script_mismatches",
)
"""What Anthropic's simulator counts and must not have seen where nothing is broken on purpose."""


def begin(system: LocalSystem, agent_id: str | None = None) -> AbstractAsyncContextManager[Conversation]:
    """A new session in the system's environment, by default of the system's agent."""
    return Conversation.begin(
        system.user, agent_id=agent_id or system.agent_id, environment_id=system.clouds.environment_id
    )


@asynccontextmanager
async def begin_with_store(system: LocalSystem, store: str) -> AsyncIterator[Conversation]:
    """The same with a memory store, which the agent may write to."""
    resources: Any = [{"type": "memory_store", "memory_store_id": store, "access": "read_write"}]
    session = await system.user.beta.sessions.create(
        agent=system.agent_id, environment_id=system.clouds.environment_id, resources=resources
    )
    async with Conversation.join(system.user, session.id) as conversation:
        yield conversation


async def resource(system: LocalSystem, session_id: str) -> dict[str, Any]:
    """The session's resource; empty where there is none."""
    found = await system.kubectl(
        "get", names.PLURAL, names.resource_name(session_id), "--ignore-not-found", "--output=json"
    )
    return json.loads(found) if found else {}


async def condition(system: LocalSystem, session_id: str, type_: str = "Ready") -> dict[str, Any]:
    """One of the resource's conditions; empty where it is not set."""
    conditions = (await resource(system, session_id)).get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == type_), {})


async def becomes(
    system: LocalSystem, session_id: str, reason: str, *, status: str = "False", seconds: float = 60
) -> dict[str, Any]:
    """Wait until Ready has this status for this reason; returns the condition."""

    async def look() -> dict[str, Any] | None:
        found = await condition(system, session_id)
        return found if (found.get("status"), found.get("reason")) == (status, reason) else None

    return await eventually(f"Ready={status} because of {reason}", look, seconds=seconds)


async def events_of(system: LocalSystem, session_id: str) -> list[tuple[str, str]]:
    """(type, reason) of each Kubernetes Event about the resource."""
    name = names.resource_name(session_id)
    found = await system.kubectl(
        "get", "events", f"--field-selector=involvedObject.name={name}", "--output=json"
    )
    return [(event["type"], event["reason"]) for event in json.loads(found)["items"]]


async def told(system: LocalSystem, session_id: str, reason: str, *, type_: str = "Normal") -> None:
    """Wait for the Event about the resource that has this reason; Events come after what they tell of."""

    async def look() -> bool:
        return (type_, reason) in await events_of(system, session_id)

    await eventually(f"a {type_} Event {reason}", look)


async def warned(system: LocalSystem, session_id: str, reason: str) -> None:
    """Wait for the Warning Event about the resource that has this reason."""
    await told(system, session_id, reason, type_="Warning")


async def sandboxes_of(system: LocalSystem, session_id: str, *states: str) -> list[SimulatedSandbox]:
    """The session's sandboxes in E2B, by default all that ever were."""
    return [
        sandbox
        for sandbox in await system.e2b_admin.sandboxes(*states)
        if sandbox.metadata.get(names.METADATA_SESSION) == session_id
    ]


def refused_calls(ledger: LedgerView) -> Counter[str]:
    """What E2B answered with an error, by operation and status; calls under way have no answer yet.

    Many pauses at once take longer than a call may. Asked again, E2B says that it is at it: that does not
    count.
    """
    refused = Counter(
        f"{call['operation']}:{call['status']}"
        for call in ledger.calls
        if str(call.get("status", "")) >= "400" and not call["operation"].startswith("template_")
    )
    del refused["pause:409"]
    return refused


async def resyncs_pass(system: LocalSystem, count: int) -> None:
    """Wait until so many resyncs have asked E2B for its sandboxes."""

    async def listings() -> int:
        return len((await system.e2b_admin.ledger(operation="list")).calls)

    before = await listings()

    async def passed() -> bool:
        return await listings() >= before + count

    await eventually(f"{count} resyncs have passed", passed)


async def written_down(system: LocalSystem, session_id: str) -> bool:
    """The resource says that no claim is served and that its sandbox is paused.

    The operator writes it after the pause, so a paused sandbox alone is no sign of it.
    """
    status = (await resource(system, session_id)).get("status", {})
    work = status.get("work", {})
    served = "claim" in work and "finishedAt" not in work
    return not served and status.get("sandbox", {}).get("state") == "Paused"


async def answer(system: LocalSystem, conversation: Conversation, **event: Any) -> None:
    """Answer the one call that the session waits for."""
    [call] = (await system.anthropic_admin.session(conversation.session_id)).waiting_for
    name = "custom_tool_use_id" if event["type"] == "user.custom_tool_result" else "tool_use_id"
    events: Any = [{**event, name: call}]
    await system.user.beta.sessions.events.send(conversation.session_id, events=events)


async def allow(system: LocalSystem, conversation: Conversation) -> None:
    """Confirm the one call that the session waits for."""
    await answer(system, conversation, type="user.tool_confirmation", result="allow")


async def paused(system: LocalSystem, session_id: str) -> bool:
    """Exactly one sandbox of the session is left, and it is paused."""
    alive = [each for each in await sandboxes_of(system, session_id) if each.state != "killed"]
    return [each.state for each in alive] == ["paused"]
