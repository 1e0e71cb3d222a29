"""Many new sessions at once, with stub workers: what the dispatcher takes, and not 200 Python interpreters.

A stub worker is a task of E2B's simulator that makes a worker's calls (the simulator's setting
`stub_workers`). All else is real: API server, webhook and operator, and every call on the wire.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import psutil
from managed_session_devkit.system.local_system import LocalSystem

from benchmarks.figures import Figure, middle_and_longest
from benchmarks.latency_model import LIMIT_AT_ONCE_IS, limits_at_once, model_clouds
from benchmarks.sessions import begin, cpu_seconds, heartbeats, settle, turn, wait_for_pool

SCALES = (20, 60, 200)
GOAL_CPU_MS, GOAL_RATIO = 8, 2
SPARE = 2
OPERATOR, SIMULATORS, USERS = "operator", "simulators", "users"
SIMULATED = (SIMULATORS, USERS)


@dataclass(frozen=True)
class Burst:
    """What new sessions at once have taken.

    Attributes:
        heartbeats_ms: time from each message to its worker's first heartbeat.
        seconds: CPU of each part of the system until all sessions were idle again.
        simulators_until_answered: CPU of simulators and users until the last answer.
    """

    heartbeats_ms: list[float]
    seconds: dict[str, float]
    simulators_until_answered: float


def parts_of(system: LocalSystem) -> dict[str, list[psutil.Process]]:
    """Return the processes of the system by the part that they are."""
    operator, webhook = system.operator.process.pid, system.webhook.process.pid
    control_plane = set(system.control_plane.process_ids.values())
    parts: dict[str, list[psutil.Process]] = {
        OPERATOR: [],
        "webhook": [],
        "API server and etcd": [],
        SIMULATORS: [],
    }
    for process in psutil.Process().children(recursive=True):
        if process.pid == operator:
            parts[OPERATOR].append(process)
        elif process.pid == webhook:
            parts["webhook"].append(process)
        elif process.pid in control_plane:
            parts["API server and etcd"].append(process)
        else:
            parts[SIMULATORS].append(process)
    return {**parts, USERS: [psutil.Process()]}


def readings(parts: Mapping[str, list[psutil.Process]]) -> dict[int, float]:
    """Return the CPU seconds of each process so far, without those that have ended."""
    found: dict[int, float] = {}
    for process in (each for processes in parts.values() for each in processes):
        with suppress(psutil.NoSuchProcess):
            found[process.pid] = cpu_seconds(process)
    return found


def used(
    parts: Mapping[str, list[psutil.Process]], before: Mapping[int, float], after: Mapping[int, float]
) -> dict[str, float]:
    """Return the CPU seconds of each part between two readings, of processes that are in both."""
    return {
        name: sum(
            after[each.pid] - before[each.pid] for each in processes if each.pid in before.keys() & after
        )
        for name, processes in parts.items()
    }


async def burst(sessions: int, *, stub_workers: bool = True) -> Burst:
    """Let new sessions send their first message at once, and wait until all are idle again."""
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(
            LocalSystem(
                operator_settings={
                    "max_active_sandboxes": str(sessions + SPARE),
                    "prewarm_capacity_percent": "100",
                    "sandbox_creation_rate": "1000",
                    "sandbox_creation_burst": "1000",
                    "max_idle_seconds": "2",
                },
                e2b_settings={
                    "max_concurrent_sandboxes": sessions + SPARE,
                    # Kept ready where E2B restores snapshots, so that the model decides.
                    "warm_pool": sessions + SPARE,
                    "stub_workers": stub_workers,
                },
                delete_sessions_at_exit=False,
            )
        )
        await model_clouds(system)
        async with begin(system) as first:
            await turn(first)
            await settle(system, 1)
        await wait_for_pool(system, sessions)
        many = list(
            await asyncio.gather(*(stack.enter_async_context(begin(system)) for _ in range(sessions)))
        )
        parts = parts_of(system)
        before = readings(parts)
        await asyncio.gather(*(turn(each) for each in many))
        answered = used(parts, before, readings(parts))
        await settle(system, sessions + 1)
        return Burst(
            await heartbeats(system, many, 0),
            used(parts, before, readings(parts)),
            sum(answered[name] for name in SIMULATED),
        )


def figures_of(found: Burst, sessions: int) -> list[Figure]:
    """Return the figures of one scale."""
    cores = os.cpu_count() or 1
    shared = found.simulators_until_answered / cores
    limits = limits_at_once(sessions)
    times = middle_and_longest(
        "at-once", "first message to first heartbeat", found.heartbeats_ms,
        limits=limits, limit_is=LIMIT_AT_ONCE_IS, scale=sessions,
    )  # fmt: skip
    return [
        Figure(
            key="cpu-at-once",
            name="CPU of the operator for each turn",
            value=found.seconds[OPERATOR] / sessions * 1000,
            unit="ms",
            scale=sessions,
            goal=GOAL_CPU_MS,
        ),
        *times,
        *(
            Figure(
                key=f"{each.key}-goal",
                name=f"{each.name}, on these cores",
                value=each.value,
                unit="s",
                scale=sessions,
                limit=GOAL_RATIO * (each.limit or 0) + share * shared,
                limit_is="twice that limit, and the CPU of simulators and users until then on all cores",
                goal=1,
            )
            for each, share in zip(times, (0.5, 1.0), strict=True)
        ),
        *(
            Figure(
                key=f"cpu-{name}",
                name=f"CPU for each turn: {name}",
                value=seconds / sessions * 1000,
                unit="ms",
                scale=sessions,
            )
            for name, seconds in found.seconds.items()
            if name != OPERATOR
        ),
    ]


async def measure() -> list[Figure]:
    """Measure every scale, and the smallest with real workers too, as the cookbook is measured."""
    found: list[Figure] = []
    for sessions in SCALES:
        found += figures_of(await burst(sessions), sessions)
    real = await burst(SCALES[0], stub_workers=False)
    return found + middle_and_longest(
        "real-at-once", "the same with real workers", real.heartbeats_ms,
        limits=limits_at_once(SCALES[0]), limit_is=LIMIT_AT_ONCE_IS, scale=SCALES[0],
    )  # fmt: skip
