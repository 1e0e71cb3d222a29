"""An operator with many idle sessions: its restart, and what it uses while nothing happens.

It is settled when it leads, has resynced once, and has reconciled each resource without finding anything to
do.
"""

from __future__ import annotations

import asyncio

import psutil
from managed_session_devkit.system.settled_sessions import restart_operator

from benchmarks.figures import Figure
from benchmarks.sessions import cpu_seconds, settled_system

SCALES = (1000, 3000, 10_000)
REST_SECONDS = 60.0
"""Two resyncs."""
GOAL_MEMORY_MB, GOAL_CPU_PERCENT, GOAL_SECONDS = 250, 1, 8
MEGABYTE = 1e6


async def rest(sessions: int) -> list[Figure]:
    """Create the sessions, restart the operator, and let it rest."""
    async with settled_system(sessions) as system:
        restart = await restart_operator(system)
        if restart.written:
            raise RuntimeError(f"the restart has changed {len(restart.written)} resources")
        operator = psutil.Process(system.operator.process.pid)
        settled = cpu_seconds(operator)
        await asyncio.sleep(REST_SECONDS)
        percent = (cpu_seconds(operator) - settled) / REST_SECONDS * 100
        return [
            Figure(
                key="restart", name="start of the operator until it is settled", value=restart.seconds,
                unit="s", scale=sessions, goal=GOAL_SECONDS,
            ),
            Figure(
                key="restart-cpu", name="CPU of the operator until then", value=settled, unit="s",
                scale=sessions,
            ),
            Figure(
                key="rest-cpu", name="CPU of the operator at rest, of one core", value=percent, unit="%",
                scale=sessions, goal=GOAL_CPU_PERCENT,
            ),
            Figure(
                key="rest-memory", name="memory of the operator at rest", unit="MB", scale=sessions,
                value=operator.memory_info().rss / MEGABYTE, goal=GOAL_MEMORY_MB,
            ),
            Figure(
                key="restart-calls", name="calls to E2B and Anthropic until settled", unit="", scale=sessions,
                value=sum(restart.e2b_calls.values()) + sum(restart.anthropic_calls.values()),
            ),
        ]  # fmt: skip


async def measure() -> list[Figure]:
    """Measure every scale."""
    return [figure for sessions in SCALES for figure in await rest(sessions)]
