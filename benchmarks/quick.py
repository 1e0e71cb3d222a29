"""Measures a few ratios in less than three minutes, and fails if one got worse by more than half.

Each ratio compares two things that were measured in the same run, so that it depends little on the machine:
`python -m benchmarks.quick`. `--write` commits to the ratios that are measured now (`quick.json`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from managed_session_operator.domain.resource_cache import MOST_PARSED, ResourceCache
from rich.console import Console
from rich.table import Table

from benchmarks import turns
from benchmarks.latency_model import LIMIT_COLD_MS, LIMIT_PAUSED_MS
from benchmarks.webhook_process import new_sessions, send_all, webhooks, write_directly

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


async def single_turns() -> list[Ratio]:
    """Measure cold turns, and turns from a paused sandbox, with the modelled latencies of the clouds."""
    found = await turns.play(TURNS)
    reference = reference_seconds()
    return [
        _against_limit("cold turn ÷ its remote calls", found.cold, LIMIT_COLD_MS),
        _against_limit("turn from paused ÷ its remote calls", found.paused, LIMIT_PAUSED_MS),
        Ratio(
            "status writes of a turn from paused",
            found.writes / TURNS,
            f"{found.writes:.0f} in {TURNS} turns",
        ),
        Ratio(
            "operator's CPU of a turn from paused ÷ reference work",
            found.cpu_seconds / TURNS / reference,
            f"{found.cpu_seconds / TURNS * 1e3:.0f} ms ÷ {reference * 1e3:.1f} ms",
        ),
    ]


def _against_limit(name: str, milliseconds: list[float], limit: int) -> Ratio:
    middle = statistics.median(milliseconds)
    return Ratio(name, middle / limit, f"{middle:.0f} ms ÷ {limit} ms")


async def deliveries() -> list[Ratio]:
    """Measure how fast the webhook records new sessions, against the API server's own rate."""
    async with webhooks(1) as running:
        limit = await write_directly(running.kubeconfig, DELIVERIES, CONCURRENCY)
        sent = await send_all(running.ports, new_sessions(DELIVERIES), CONCURRENCY)
    return [
        Ratio(
            "API server's own new sessions ÷ webhook's",
            limit.rate / sent.rate,
            f"{limit.rate:.0f} /s ÷ {sent.rate:.0f} /s",
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
    parts: list[Callable[[], Awaitable[list[Ratio]]]] = [single_turns, deliveries, memory]
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
