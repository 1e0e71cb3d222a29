"""Events per second of one and two webhook processes, against the API server's own rate for the same writes.

A real API server and etcd run on this machine. They share its cores with the webhooks and the load.
"""

from __future__ import annotations

import statistics

from benchmarks.figures import Figure
from benchmarks.sessions import cpu_seconds
from benchmarks.webhook_process import Webhooks, new_sessions, send_all, webhooks, write_directly

PROCESSES = (1, 2)
SESSIONS, REPEATS, CONCURRENCY = 2000, 6000, 48
GOALS = {1: 0.9, 2: 1.6}
"""By processes: new sessions per second, against the API server's rate."""
MIB = 2**20


async def rates(running: Webhooks) -> list[Figure]:
    """Measure webhooks that run: new sessions, and the same events again."""
    count = len(running.ports)
    direct = await write_directly(running.kubeconfig, SESSIONS, CONCURRENCY)
    new = new_sessions(SESSIONS)
    busy = sum(map(cpu_seconds, running.processes))
    sent = await send_all(running.ports, new, CONCURRENCY)
    used = sum(map(cpu_seconds, running.processes)) - busy
    repeated = await send_all(running.ports, (new * (REPEATS // len(new) + 1))[:REPEATS], CONCURRENCY)
    if {*sent.statuses, *repeated.statuses} != {204}:
        raise RuntimeError(f"answers other than 204: {sorted({*sent.statuses, *repeated.statuses})}")
    return [
        Figure(
            key="new-sessions", name="new sessions", value=sent.rate, unit="/s", scale=count,
            limit=direct.rate, limit_is="the same writes without a webhook", goal=GOALS[count],
            more_is_better=True,
        ),
        Figure(key="repeated", name="repeated events", value=repeated.rate, unit="/s", scale=count),
        Figure(
            key="new-p99", name="answer to a new session, 99th percentile", unit="ms", scale=count,
            value=statistics.quantiles(sent.latencies, n=100)[-1] * 1000,
        ),
        Figure(
            key="webhook-cpu", name="CPU of the webhook for a new session", unit="ms", scale=count,
            value=used / SESSIONS * 1000,
        ),
        Figure(
            key="webhook-memory", name="memory of a webhook", unit="MiB", scale=count,
            value=max(each.memory_info().rss for each in running.processes) / MIB,
        ),
    ]  # fmt: skip


async def measure() -> list[Figure]:
    """Measure one process, and then two."""
    found: list[Figure] = []
    for count in PROCESSES:
        async with webhooks(count) as running:
            found += await rates(running)
    return found
