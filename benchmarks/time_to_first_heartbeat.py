"""Measures the time from a message to its worker's first heartbeat, with modelled latencies of the clouds.

The whole local system runs: a real API server, webhook and operator processes, real SDKs, real workers. The
simulators have the clouds' latencies (the model below). Each figure is printed with two others: the limit,
which is the sum of the remote calls that no dispatcher can avoid, and the time of the vendor's cookbook
router under the same model. (That was measured once, on two cores; it serves one session per second.) Run it
with `make bench`, or alone: `python benchmarks/time_to_first_heartbeat.py [--sessions 50]`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

from managed_session_api.names import PLURAL
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem
from rich.console import Console
from rich.table import Table

E2B_MODEL = {
    "create": (400, 100),
    "connect": (700, 150),
    "pause": (1500, 300),
    "kill": (200, 50),
    "get": (40, 10),
    "list": (40, 10),
    "set_timeout": (40, 10),
    "files_write": (30, 10),
    "process_start": (30, 10),
}
"""Milliseconds, mean ± jitter."""
ANTHROPIC_MODEL = (60, 15)
LIMIT_COLD_MS = 400 + 60 + 30 + 60
"""Create, acknowledge, start and heartbeat. The poll and the webhook run during the create."""
LIMIT_PAUSED_MS = 700 + 60 + 30 + 60

COOKBOOK_MS = {"cold": "2100-2900", "paused": "2600", 10: "8800 / 12800", 50: "36000 / 67000"}


def latency(model: tuple[int, int]) -> dict[str, int]:
    """Return the model in the form of the simulators' settings."""
    return {"mean_ms": model[0], "jitter_ms": model[1]}


async def turn(conversation: Conversation) -> None:
    """Send a message and wait for its answer."""
    await conversation.say("Run: true; echo ok", timeout_seconds=180)


async def settle(system: LocalSystem, sessions: int) -> None:
    """Wait until every session is idle, and its paused sandbox is recorded."""
    deadline = time.monotonic() + 120
    phases: list[str] = []
    while phases.count("Idle") < sessions:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {sessions} sessions were idle within two minutes: {phases}")
        await asyncio.sleep(0.2)
        phases = (await system.kubectl("get", PLURAL, "--output=jsonpath={.items[*].status.phase}")).split()


async def heartbeats(system: LocalSystem, conversations: list[Conversation], number: int) -> list[float]:
    """Return the milliseconds from message `number` to the worker's first heartbeat, for each session."""
    ledger = await system.anthropic_admin.ledger(calls=False)
    found = [ledger.sessions[each.session_id].turns[number].to_heartbeat_ms for each in conversations]
    return [each for each in found if each is not None]


async def measure(sessions: int) -> list[tuple[str, list[float], int, str]]:
    """Return rows: scenario, milliseconds of each session, limit in milliseconds, the cookbook's figure."""
    rows: list[tuple[str, list[float], int, str]] = []
    slots = str(sessions + 10)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(
            LocalSystem(
                operator_settings={
                    "max_active_sandboxes": slots,
                    "prewarm_capacity_percent": "100",
                    "sandbox_creation_rate": "1000",
                    "sandbox_creation_burst": "1000",
                    "max_idle_seconds": "2",
                },
                e2b_settings={
                    "max_concurrent_sandboxes": sessions + 10,
                    # The simulator keeps sandboxes ready where E2B restores snapshots, so that the model
                    # decides.
                    "warm_pool": sessions + 2,
                },
                delete_sessions_at_exit=False,
            )
        )
        await system.e2b_admin.change_settings(
            latencies={name: latency(model) for name, model in E2B_MODEL.items()}
        )
        await system.anthropic_admin.change_settings(latencies={"*": latency(ANTHROPIC_MODEL)})

        async def begin() -> Conversation:
            return await stack.enter_async_context(
                Conversation.begin(
                    system.user, agent_id=system.agent_id, environment_id=system.clouds.environment_id
                )
            )

        single = await begin()
        await turn(single)
        await settle(system, 1)
        cold = await heartbeats(system, [single], 0)
        rows.append(("one cold turn", cold, LIMIT_COLD_MS, COOKBOOK_MS["cold"]))
        await turn(single)
        await settle(system, 1)
        paused = await heartbeats(system, [single], 1)
        rows.append(("one turn from a paused sandbox", paused, LIMIT_PAUSED_MS, COOKBOOK_MS["paused"]))

        await wait_for_pool(system, sessions + 1)
        many = list(await asyncio.gather(*(begin() for _ in range(sessions))))
        for number, (name, limit) in enumerate((("cold", LIMIT_COLD_MS), ("paused", LIMIT_PAUSED_MS))):
            await asyncio.gather(*(turn(each) for each in many))
            await settle(system, sessions + 1)
            cookbook = COOKBOOK_MS.get(sessions, "") if name == "cold" else ""
            rows.append(
                (f"{sessions} at once, {name}", await heartbeats(system, many, number), limit, cookbook)
            )
    return rows


async def wait_for_pool(system: LocalSystem, sandboxes: int) -> None:
    """Wait until the simulator has its ready sandboxes."""
    deadline = time.monotonic() + 120

    async def ready() -> int:
        templates: list[dict[str, Any]] = await system.e2b_admin.templates()
        return max((int(each.get("warm", 0)) for each in templates), default=0)

    while await ready() < sandboxes and time.monotonic() < deadline:  # noqa: ASYNC110 - another process's
        await asyncio.sleep(0.2)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=50, help="how many at once")
    sessions = parser.parse_args().sessions
    table = Table("scenario", "n", "p50 ms", "max ms", "limit ms", "p50 / limit", "cookbook ms (p50 / max)")
    for name, figures, limit, cookbook in asyncio.run(measure(sessions)):
        middle = median(figures)
        table.add_row(
            name, str(len(figures)), f"{middle:.0f}", f"{max(figures):.0f}", str(limit),
            f"{middle / limit:.2f}", cookbook,
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
