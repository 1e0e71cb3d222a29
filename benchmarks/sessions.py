"""Sessions that benchmarks play on a local system, and what they have taken."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import psutil
from managed_session_api.names import PLURAL, resource_name
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.settled_sessions import add_settled_sessions

MESSAGE = "Run: true; echo ok"
SETTLE_SECONDS = 120
LOOK_AGAIN_SECONDS = 0.2
LOOK_AGAIN_AT_MANY_SECONDS = 1.0
"""kubectl takes CPU, too."""
MANY = 10


def begin(system: LocalSystem) -> AbstractAsyncContextManager[Conversation]:
    """Begin a session."""
    return Conversation.begin(
        system.user, agent_id=system.agent_id, environment_id=system.clouds.environment_id
    )


async def turn(conversation: Conversation) -> None:
    """Send a message and wait for its answer."""
    await conversation.say(MESSAGE, timeout_seconds=180)


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, every: float = LOOK_AGAIN_SECONDS
) -> None:
    """Wait until the condition is true.

    Raises:
        TimeoutError: it was not in time.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {SETTLE_SECONDS} s: {what}")
        await asyncio.sleep(every)


async def settle(system: LocalSystem, sessions: int) -> None:
    """Wait until every session is idle, and its paused sandbox is recorded."""

    async def idle() -> bool:
        phases = await system.kubectl("get", PLURAL, "--output=jsonpath={.items[*].status.phase}")
        return phases.split().count("Idle") >= sessions

    every = LOOK_AGAIN_AT_MANY_SECONDS if sessions > MANY else LOOK_AGAIN_SECONDS
    await until(idle, f"all of {sessions} sessions are idle", every)


async def wait_for_pool(system: LocalSystem, sandboxes: int) -> None:
    """Wait until the simulator has this many ready sandboxes."""

    async def ready() -> bool:
        templates: list[dict[str, Any]] = await system.e2b_admin.templates()
        return max((int(each.get("warm", 0)) for each in templates), default=0) >= sandboxes

    await until(ready, f"{sandboxes} sandboxes are ready")


async def heartbeats(system: LocalSystem, conversations: list[Conversation], number: int) -> list[float]:
    """Return the milliseconds from message `number` to the worker's first heartbeat, for each session.

    Raises:
        RuntimeError: a session has had none.
    """
    ledger = await system.anthropic_admin.ledger(calls=False)
    found = [ledger.sessions[each.session_id].turns[number].to_heartbeat_ms for each in conversations]
    times = [each for each in found if each is not None]
    if len(times) < len(found):
        raise RuntimeError(f"{len(found) - len(times)} of {len(found)} messages had no worker")
    return times


@asynccontextmanager
async def settled_system(sessions: int) -> AsyncIterator[LocalSystem]:
    """Run a system with this many sessions at rest. Its operator is stopped."""
    async with (
        LocalSystem(operator_settings={"max_idle_seconds": "1"}, delete_sessions_at_exit=False) as system,
        begin(system) as conversation,
    ):
        await conversation.say("Run: true")
        name = resource_name(conversation.session_id)
        await system.kubectl(
            "wait", "--for=jsonpath={.status.phase}=Idle", "--timeout=60s", f"{PLURAL}/{name}"
        )
        await system.operator.process.stop()
        await add_settled_sessions(system, conversation.session_id, sessions - 1)
        yield system


async def status_writes(system: LocalSystem) -> float:
    """Return how many writes to statuses the operator has made."""
    return await metric(f"{system.operator.probe_url}/metrics", "managed_sessions_status_writes_total")


async def metric(url: str, name: str) -> float:
    """Return the value of a metric without labels; 0 if there is none."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(url)).text
    found = re.search(rf"^{name} (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time that a process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)
