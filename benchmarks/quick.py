"""Measures a few ratios in less than three minutes, and fails if one got worse by more than half.

Each ratio compares two things that were measured in the same run, so that it depends little on the machine:
`python -m benchmarks.quick`. `--write` commits to the ratios that are measured now (`quick.json`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_operator.domain.resource_cache import MOST_PARSED, ResourceCache
from rich.console import Console
from rich.table import Table

from benchmarks.restart_at_scale import cpu_seconds
from benchmarks.time_to_first_heartbeat import (
    ANTHROPIC_MODEL,
    E2B_MODEL,
    LIMIT_COLD_MS,
    LIMIT_PAUSED_MS,
    heartbeats,
    latency,
    settle,
    turn,
)
from benchmarks.webhook_throughput import KEY, bare, delivery, prepare, send_all, webhook

COMMITTED = Path(__file__).with_name("quick.json")
WORSE = 1.5
"""A ratio may be worse than the committed one by this factor."""
TURNS = 5
DELIVERIES = 600
CONCURRENCY = 32
RESOURCES = 4000


@dataclass(frozen=True)
class Ratio:
    """One result.

    Attributes:
        name: what is compared with what.
        value: the ratio; the lower, the better.
        detail: the two figures.
    """

    name: str
    value: float
    detail: str


def reference_seconds() -> float:
    """Return the CPU time of a fixed piece of work, which is about ten milliseconds on a fast core."""
    document = json.dumps({f"field{number}": [number, str(number), {"a": None}] for number in range(200)})
    times = []
    for _ in range(9):
        began = time.process_time()
        for _ in range(100):
            json.loads(document)
        times.append(time.process_time() - began)
    return statistics.median(times)


async def status_writes(system: LocalSystem) -> float:
    """Return how many writes to statuses the operator has made."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{system.operator.probe_url}/metrics")).text
    found = re.search(r"^managed_sessions_status_writes_total (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def turns() -> list[Ratio]:
    """Measure cold turns, and turns from a paused sandbox, with the modelled latencies of the clouds."""
    async with LocalSystem(
        operator_settings={"prewarm_capacity_percent": "100", "max_idle_seconds": "1"},
        e2b_settings={"warm_pool": TURNS},
        delete_sessions_at_exit=False,
    ) as system:
        await system.e2b_admin.change_settings(
            latencies={name: latency(model) for name, model in E2B_MODEL.items()}
        )
        await system.anthropic_admin.change_settings(latencies={"*": latency(ANTHROPIC_MODEL)})
        operator = psutil.Process(system.operator.process.pid)
        cold, paused, writes, used = list[float](), list[float](), 0.0, 0.0
        for number in range(TURNS):
            async with Conversation.begin(
                system.user, agent_id=system.agent_id, environment_id=system.clouds.environment_id
            ) as conversation:
                await turn(conversation)
                await settle(system, number + 1)
                before, busy = await status_writes(system), cpu_seconds(operator)
                await turn(conversation)
                await settle(system, number + 1)
                writes += await status_writes(system) - before
                used += cpu_seconds(operator) - busy
                cold += await heartbeats(system, [conversation], 0)
                paused += await heartbeats(system, [conversation], 1)
    reference = reference_seconds()
    return [
        _against_limit("cold turn ÷ its remote calls", cold, LIMIT_COLD_MS),
        _against_limit("turn from paused ÷ its remote calls", paused, LIMIT_PAUSED_MS),
        Ratio("status writes of a turn from paused", writes / TURNS, f"{writes:.0f} in {TURNS} turns"),
        Ratio(
            "operator's CPU of a turn from paused ÷ reference work",
            used / TURNS / reference,
            f"{used / TURNS * 1e3:.0f} ms ÷ {reference * 1e3:.1f} ms",
        ),
    ]


def _against_limit(name: str, milliseconds: list[float], limit: int) -> Ratio:
    middle = statistics.median(milliseconds)
    return Ratio(name, middle / limit, f"{middle:.0f} ms ÷ {limit} ms")


async def deliveries() -> list[Ratio]:
    """Measure how fast the webhook records new sessions, against the API server's own rate."""
    namespace = names.RESOURCE_NAMESPACE
    async with ControlPlane() as control_plane:
        kubeconfig = await prepare(control_plane, namespace)
        with tempfile.TemporaryDirectory() as folder:
            credentials = Path(folder)
            (credentials / "anthropic-webhook-signing-key").write_text(KEY)
            async with webhook(kubeconfig, namespace, credentials) as (port, process):
                limit = await bare("", kubeconfig, namespace, DELIVERIES, CONCURRENCY, with_status=True)
                sessions = [f"sesn_{os.urandom(12).hex()}" for _ in range(DELIVERIES)]
                requests = [delivery(number, session) for number, session in enumerate(sessions)]
                sent = await send_all("", port, requests, CONCURRENCY, process)
    rates = DELIVERIES / limit.seconds, DELIVERIES / sent.seconds
    return [
        Ratio(
            "API server's own new sessions ÷ webhook's",
            rates[0] / rates[1],
            f"{rates[0]:.0f} /s ÷ {rates[1]:.0f} /s",
        )
    ]


async def memory() -> list[Ratio]:
    """Measure what a resource at rest takes in the operator's cache, against its JSON."""
    condition = {"status": "True", "message": "", "lastTransitionTime": "2026-11-23T16:00:00Z"}
    status: dict[str, Any] = {
        "phase": "Idle",
        "turns": 3,
        "sandbox": {"id": "i" * 20, "state": "Paused", "templateID": "managed-session-worker", "attempt": 1},
        "work": {"claim": "20261123T165959.000000Z", "finishedAt": "2026-11-23T16:59:00Z"},
        "conditions": [{**condition, "type": each, "reason": "Idle"} for each in ("Ready", "SandboxReady")],
    }
    cache = ResourceCache()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    length = 0
    for number in range(RESOURCES):
        body = {
            "metadata": {
                "name": f"sesn-{number:020d}",
                "uid": f"{number:036d}",
                "resourceVersion": str(number),
            },
            "spec": {"sessionID": f"sesn_{number:020d}", "environmentID": "env_1"},
            "status": status,
        }
        cache.observe(body)
        length += len(json.dumps(body))
    each = (tracemalloc.get_traced_memory()[0] - before) / RESOURCES
    tracemalloc.stop()
    json_each = length / RESOURCES
    return [
        Ratio(
            f"memory of a resource at rest ÷ its JSON ({MOST_PARSED} of {RESOURCES} in use)",
            each / json_each,
            f"{each:.0f} bytes ÷ {json_each:.0f} bytes",
        )
    ]


async def measure() -> list[Ratio]:
    """Measure everything."""
    parts: list[Callable[[], Awaitable[list[Ratio]]]] = [turns, deliveries, memory]
    return [ratio for part in parts for ratio in await part()]


def main() -> int:
    """Measure, print and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="commit to the ratios that are measured now")
    options = parser.parse_args()
    found = asyncio.run(measure())
    if options.write:
        COMMITTED.write_text(json.dumps({each.name: round(each.value, 2) for each in found}, indent=2) + "\n")
    committed: dict[str, float] = json.loads(COMMITTED.read_text())
    table, worse = Table("ratio", "now", "committed", "measured"), list[str]()
    for each in found:
        known = committed.get(each.name)
        if known is None or each.value > known * WORSE:
            worse.append(each.name)
        table.add_row(
            each.name, f"{each.value:.2f}", "none" if known is None else f"{known:.2f}", each.detail
        )
    Console(width=140).print(table)
    for name in worse:
        print(f"worse by more than half, or not committed: {name}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
