"""All benchmarks, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from benchmarks import (
    at_once,
    at_rest,
    billed,
    cookbook,
    dashboard_at_scale,
    fair_sharing,
    hand_over,
    sandbox_list,
    threads_side_by_side,
    turns,
    warm_start,
    webhook_throughput,
)
from benchmarks.figures import Figure


@dataclass(frozen=True)
class Growth:
    """A figure that is measured at several scales, and drawn.

    Attributes:
        keys: keys of the figures in the plot.
        of: what the scale counts.
        title: heading of the plot.
        why: what the figure grows with, and what bounds it.
        names: what the lines are called, in the order of the keys.
    """

    keys: tuple[str, ...]
    of: str
    title: str
    why: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, which runs in a process of its own.

    Attributes:
        name: its name on the command line.
        title: its heading on the page.
        what: what is measured, and how.
        measure: measures, and returns the figures.
        limit_seconds: how long it may take.
        growth: what is drawn.
    """

    name: str
    title: str
    what: str
    measure: Callable[[], Coroutine[Any, Any, list[Figure]]]
    limit_seconds: float
    growth: tuple[Growth, ...] = ()


BENCHMARKS = (
    Benchmark(
        "turns",
        "A single turn",
        "One session after the other sends a first message, and another one once its sandbox is paused. "
        "The workers are real.",
        turns.measure,
        180,
    ),
    Benchmark(
        "at-once",
        "Many new sessions at once",
        "All sessions send their first message in the same moment. Stub workers take the place of Python in "
        "the sandboxes: they make a worker's calls, and nothing else. So the cores run the system and the "
        "simulators, and not hundreds of interpreters.",
        at_once.measure,
        400,
        (
            Growth(
                ("cpu-at-once",),
                "sessions at once",
                "CPU of the operator for each turn",
                "A turn costs the same number of calls and decisions however many others there are. What "
                "a process needs anyway (resyncs, polls, the Lease) is shared by more turns.",
                ("operator",),
            ),
            Growth(
                ("at-once-p50", "at-once-max"),
                "sessions at once",
                "First message to first heartbeat",
                "A few sessions at once take as long as one. Then the CPU is the limit: all that the "
                "sessions need, of the operator, the API server and the simulators, is spread over the "
                "cores, so the time grows in proportion.",
                ("median", "longest"),
            ),
        ),
    ),
    Benchmark(
        "webhook",
        "Events from Anthropic",
        "Signed events of new sessions are sent to one and to two webhook processes, 48 at a time. Each is "
        "answered after the API server has stored it. The limit is what one client reaches that makes the "
        "same writes without a webhook.",
        webhook_throughput.measure,
        180,
        (
            Growth(
                ("new-sessions",),
                "webhook processes",
                "New sessions per second",
                "A second process adds what the API server has left, and the machine's cores are shared by "
                "etcd, the API server, the webhooks and the load.",
                ("new sessions",),
            ),
        ),
    ),
    Benchmark(
        "at-rest",
        "Many sessions at rest",
        "An operator is started where all sessions are idle and their sandboxes paused, and is then left "
        "alone for a minute, which is two resyncs.",
        at_rest.measure,
        720,
        (
            Growth(
                ("rest-memory",),
                "sessions at rest",
                "Memory of the operator at rest",
                "A process without sessions needs most of it. Each session adds its resource as JSON and a "
                "summary.",
                ("operator",),
            ),
            Growth(
                ("restart",),
                "sessions at rest",
                "Start of the operator until it is settled",
                "The process starts in some seconds. Then it lists all resources and looks at each of them "
                "once, which takes CPU in proportion.",
                ("settled",),
            ),
            Growth(
                ("rest-cpu",),
                "sessions at rest",
                "CPU of the operator at rest",
                "A resync looks at every resource up to 500, and beyond that at 100 of those at rest. So it "
                "grows only with what is listed whole, which happens less often the longer the lists are.",
                ("operator",),
            ),
        ),
    ),
    Benchmark(
        "sandbox-list",
        "E2B's list of sandboxes",
        "The resync reads the list of all paused sandboxes, and 100 running ones, at 200 ms a page of 100. "
        "Nobody waits for the whole of a long list: it is read in the background.",
        sandbox_list.measure,
        240,
        (
            Growth(
                ("list", "list-wait"),
                "paused sandboxes",
                "Reading E2B's list",
                "E2B gives out each page's successor with the page, so the list takes its pages times their "
                "latency. A resync waits at most 20 seconds for it. The resyncs after it read the running "
                "sandboxes only, however many are paused; a long list is read whole by every twentieth.",
                ("the whole list is known", "longest wait of a resync"),
            ),
        ),
    ),
    Benchmark(
        "billed",
        "What E2B bills",
        "Turns that work for two seconds, in sessions whose users come back soon, late or never.",
        billed.measure,
        360,
    ),
    Benchmark(
        "fair-sharing",
        "A quiet class during a flood",
        "A class sends its sessions at once; 80 sessions of another class come one every 5 seconds. "
        "There are 20 slots, and a turn has one for 30 seconds on average. The clock is simulated, and the "
        "capacity is the operator's. See [capacity](capacity.md#classes-share-the-slots).",
        fair_sharing.measure,
        60,
        (
            Growth(
                ("wait-before", "wait-equal"),
                "sessions of the flood",
                "Wait of the quiet class",
                "Without classes, it waits behind the whole flood, so its wait grows in proportion. With "
                "classes, it waits for a slot that becomes free, whatever the size of the flood.",
                ("without classes", "equal weights"),
            ),
        ),
    ),
    Benchmark(
        "hand-over",
        "A hand-over between operators",
        "The leader gets a SIGTERM, ten times. The Lease is that of an installation.",
        hand_over.measure,
        240,
    ),
    Benchmark(
        "warm-start",
        "Start of a worker",
        "The supervisor of a sandbox forks a worker, against a new Python process that does the same: from "
        "the request to the first heartbeat.",
        warm_start.measure,
        120,
    ),
    Benchmark(
        "threads",
        "Threads of one session",
        "Threads of one session each run a command of one second: side by side, and one after the other as "
        "the SDK's runner does.",
        threads_side_by_side.measure,
        240,
        (
            Growth(
                ("threads",),
                "threads",
                "Commands of one second, side by side",
                "A worker runs eight commands at a time (`maxParallelCalls`), so every eight threads add a "
                "second.",
                ("side by side",),
            ),
        ),
    ),
    Benchmark(
        "dashboard",
        "The dashboard",
        "The dashboard starts, and a viewer loads everything. See [dashboard](dashboard.md#size).",
        dashboard_at_scale.measure,
        300,
        (
            Growth(
                ("dashboard-memory",),
                "sessions at rest",
                "Memory of the dashboard",
                "A process without sessions needs most of it. Each session adds its row.",
                ("dashboard",),
            ),
        ),
    ),
    Benchmark(
        "cookbook",
        "The vendor's cookbook",
        "E2B's cookbook has an example that serves the same sessions: `app-webhooks` of "
        "`examples/anthropic-managed-agents/python` in `e2b-dev/e2b-cookbook`. It runs unpatched against the "
        "same simulators and latencies, with real workers on both sides. The figures of this project are "
        "those of the sections above.",
        cookbook.measure,
        240,
    ),
)


def by_name(name: str) -> Benchmark:
    """Return a benchmark. Raises KeyError."""
    return {each.name: each for each in BENCHMARKS}[name]
