"""Single turns with real workers: time to the first heartbeat, writes to statuses, CPU of the operator."""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil
from managed_session_devkit.system.local_system import LocalSystem

from benchmarks.figures import Figure, middle_and_longest
from benchmarks.latency_model import LIMIT_COLD_MS, LIMIT_IS, LIMIT_PAUSED_MS, model_clouds
from benchmarks.sessions import begin, cpu_seconds, heartbeats, settle, status_writes, turn

TURNS = 8
GOAL_COLD, GOAL_PAUSED, GOAL_WRITES = 1.2, 1.15, 3


@dataclass
class Turns:
    """What single turns have taken: milliseconds to the heartbeat, and sums over all turns from paused."""

    cold: list[float] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)
    writes: float = 0.0
    cpu_seconds: float = 0.0


async def play(turns: int) -> Turns:
    """Play a cold turn and one from the paused sandbox, in one session after the other."""
    async with LocalSystem(
        operator_settings={"prewarm_capacity_percent": "100", "max_idle_seconds": "1"},
        e2b_settings={"warm_pool": turns},
        delete_sessions_at_exit=False,
    ) as system:
        await model_clouds(system)
        operator = psutil.Process(system.operator.process.pid)
        found = Turns()
        for number in range(turns):
            async with begin(system) as conversation:
                await turn(conversation)
                await settle(system, number + 1)
                writes, busy = await status_writes(system), cpu_seconds(operator)
                await turn(conversation)
                await settle(system, number + 1)
                found.writes += await status_writes(system) - writes
                found.cpu_seconds += cpu_seconds(operator) - busy
                found.cold += await heartbeats(system, [conversation], 0)
                found.paused += await heartbeats(system, [conversation], 1)
    return found


async def measure() -> list[Figure]:
    """Measure everything."""
    found = await play(TURNS)
    cold = middle_and_longest(
        "cold", "first message to first heartbeat", found.cold,
        limits=(LIMIT_COLD_MS,) * 2, limit_is=LIMIT_IS, goal=GOAL_COLD,
    )  # fmt: skip
    paused = middle_and_longest(
        "paused", "message to a paused session to first heartbeat", found.paused,
        limits=(LIMIT_PAUSED_MS,) * 2, limit_is=LIMIT_IS, goal=GOAL_PAUSED,
    )  # fmt: skip
    return [
        *cold,
        *paused,
        Figure(
            key="writes",
            name="writes to the status in a turn from paused",
            value=found.writes / TURNS,
            unit="",
            goal=GOAL_WRITES,
        ),
        Figure(
            key="cpu-paused",
            name="CPU of the operator for a turn from paused, alone",
            value=found.cpu_seconds / TURNS * 1000,
            unit="ms",
        ),
    ]
