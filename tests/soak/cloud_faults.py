"""Faults of the two clouds: calls that fail, sandboxes that go away, webhooks that do not come."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from .fault import Fault
from .plan import Blow
from .world import CONCURRENT_SANDBOXES, World, session_of

_FEW_SANDBOXES = 4

_ANY_E2B: list[dict[str, Any] | str] = [
    "drop_before",
    "drop_after_commit",
    {"status": 500},
    {"status": 502},
    {"status": 503},
    {"status": 504, "after_commit": True},
    {"status": 429},
    {"status": 429, "headers": {"Retry-After": "1"}},
    {"action": "hang", "seconds": 2},
    {"action": "hang_after_commit", "seconds": 2},
]
_OF_E2B: dict[str, list[dict[str, Any] | str]] = {
    "create": [
        *_ANY_E2B,
        {"action": "drop_while_in_progress", "seconds": 1},
        "idempotency_outcome_unknown",
        {"action": "hang", "seconds": 12},
    ],
    "connect": _ANY_E2B,
    "pause": [*_ANY_E2B, "pause_rolled_back", "pause_dropped"],
    "kill": _ANY_E2B,
    "get": _ANY_E2B,
    "list": [*_ANY_E2B, "page_missing", "page_token_lost"],
    "set_timeout": _ANY_E2B,
    "files_write": _ANY_E2B,
    "process_start": [*_ANY_E2B, "cut_stream", "silent_stream"],
    "process_connect": [*_ANY_E2B, "cut_stream", "silent_stream"],
}
"""By operation. No 4xx that would say that a sandbox is gone which is there."""

_BEFORE: list[dict[str, Any]] = [
    {"action": "drop_before"},
    {"status": 500},
    {"status": 503},
    {"status": 529},
    {"status": 429, "headers": {"Retry-After": "1"}},
    {"action": "hang", "seconds": 2},
]
_ANY_ANTHROPIC: list[dict[str, Any]] = [
    *_BEFORE,
    {"action": "drop_after_commit"},
    {"status": 504, "after_commit": True},
]
_OF_ANTHROPIC: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("work.poll", "environment_key"): [*_ANY_ANTHROPIC, {"status": 404}, {"status": 401}],
    ("work.ack", "environment_key"): _ANY_ANTHROPIC,
    ("work.stop", "environment_key"): _ANY_ANTHROPIC,
    ("work.list", "environment_key"): _ANY_ANTHROPIC,
    ("sessions.get", "environment_key"): _ANY_ANTHROPIC,
    ("work.heartbeat", "sessions_token"): [*_ANY_ANTHROPIC, {"status": 412}],
    ("work.stop", "sessions_token"): _ANY_ANTHROPIC,
    # A result whose answer is lost is posted again by the SDK: that would count as given twice.
    ("events.send", "sessions_token"): _BEFORE,
    ("events.list", "sessions_token"): _BEFORE,
    ("events.stream", "sessions_token"): [*_BEFORE, {"action": "sever", "after_events": 2}],
}
"""By operation and credential: the user's calls are left alone."""

_OF_WEBHOOKS: list[dict[str, Any]] = [
    {"action": "drop"},
    {"action": "duplicate", "copies": 3},
    {"action": "delay", "seconds": 3},
]


async def _e2b_call_fails(world: World, blow: Blow) -> None:
    chosen = blow.random
    operation = chosen.choice(list(_OF_E2B))
    action = chosen.choice(_OF_E2B[operation])
    times = chosen.choice((1, 1, 2, 3))
    await world.system.e2b_admin.add_fault(operation, action, times=times)
    world.trace.add("chaos", blow.kind, detail=f"{operation} {action} x{times}")


async def _anthropic_call_fails(world: World, blow: Blow) -> None:
    chosen = blow.random
    operation, credential = chosen.choice(list(_OF_ANTHROPIC))
    action = chosen.choice(_OF_ANTHROPIC[operation, credential])
    times = chosen.choice((1, 1, 2, 3))
    await world.system.anthropic_admin.add_fault(
        operation, action, match={"credential": credential}, times=times
    )
    world.trace.add("chaos", blow.kind, detail=f"{operation} by {credential} {action} x{times}")


async def _webhooks_misbehave(world: World, blow: Blow) -> None:
    chosen = blow.random
    action = chosen.choice(_OF_WEBHOOKS)
    times = chosen.randint(1, 5)
    await world.system.anthropic_admin.add_fault("webhook.deliver", action, times=times)
    world.trace.add("chaos", blow.kind, detail=f"{action} x{times}")


async def _webhooks_reordered(world: World, blow: Blow) -> None:
    await world.system.anthropic_admin.hold_webhooks()
    try:
        world.trace.add("chaos", blow.kind)
        await asyncio.sleep(blow.hold_seconds)
    finally:
        await world.system.anthropic_admin.release_webhooks(blow.random.choice(("lifo", "shuffle")))


async def _sandbox_vanishes(world: World, blow: Blow) -> None:
    states = blow.random.choice((("running",), ("paused",)))
    sandboxes = await world.sandboxes(*states)
    if sandboxes:
        sandbox = blow.random.choice(sandboxes)
        await world.system.e2b_admin.vanish(sandbox.id)
        world.trace.add("chaos", blow.kind, session_of(sandbox), f"{states[0]} {sandbox.id}")


async def _sandbox_expires(world: World, blow: Blow) -> None:
    sandboxes = await world.sandboxes("running")
    if sandboxes:
        sandbox = blow.random.choice(sandboxes)
        await world.system.e2b_admin.expire(sandbox.id)
        world.trace.add("chaos", blow.kind, session_of(sandbox), sandbox.id)


async def _sandbox_hidden(world: World, blow: Blow) -> None:
    sandboxes = await world.sandboxes("running", "paused")
    if sandboxes:
        sandbox = blow.random.choice(sandboxes)
        await world.system.e2b_admin.hide(sandbox.id, blow.hold_seconds * 2)
        world.trace.add("chaos", blow.kind, session_of(sandbox), sandbox.id)


async def _sandbox_listed_twice(world: World, blow: Blow) -> None:
    sandboxes = await world.sandboxes("running", "paused")
    if sandboxes:
        sandbox = blow.random.choice(sandboxes)
        await world.system.e2b_admin.duplicate(sandbox.id, 3)
        world.trace.add("chaos", blow.kind, session_of(sandbox), sandbox.id)


async def _quota_lowered(world: World, blow: Blow) -> None:
    await world.system.e2b_admin.change_settings(max_concurrent_sandboxes=_FEW_SANDBOXES)
    try:
        world.trace.add("chaos", blow.kind)
        await asyncio.sleep(blow.hold_seconds)
    finally:
        await world.system.e2b_admin.change_settings(max_concurrent_sandboxes=CONCURRENT_SANDBOXES)


async def _lease_lapses(world: World, blow: Blow) -> None:
    items, _ = await world.system.anthropic_admin.work()
    held = sorted(
        item["id"] for item in items if item["state"] == "active" and item["data"]["id"] in world.sessions
    )
    if held:
        chosen = blow.random.choice(held)
        await world.system.anthropic_admin.lapse_lease(chosen)
        world.trace.add("chaos", blow.kind, chosen)


async def _process_killed(world: World, blow: Blow) -> None:
    """Of ours in a sandbox: the supervisor, the worker, or what starts it."""
    chosen = blow.random
    sandboxes = await world.sandboxes("running")
    if sandboxes:
        sandbox = chosen.choice(sandboxes)
        ours = [each for each in sandbox.processes if "python" in each.command]
        if ours:
            process = chosen.choice(ours)
            if _signal(process.host_pid, signal.SIGKILL):
                world.trace.add("chaos", blow.kind, session_of(sandbox), f"{process.pid}: {process.command}")


async def _worker_frozen(world: World, blow: Blow) -> None:
    sandboxes = await world.sandboxes("running")
    if sandboxes:
        sandbox = blow.random.choice(sandboxes)
        admin = world.system.e2b_admin
        await admin.signal_processes(sandbox.id, signal.SIGSTOP, "python")
        try:
            world.trace.add("chaos", blow.kind, session_of(sandbox), f"{blow.hold_seconds:.1f} s")
            await asyncio.sleep(blow.hold_seconds)
        finally:
            await admin.signal_processes(sandbox.id, signal.SIGCONT, "python")


def _signal(host_pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(host_pid, number)
    except ProcessLookupError:
        return False
    return True


CLOUD_FAULTS = (
    Fault("E2B call fails", 12, _e2b_call_fails),
    Fault("Anthropic call fails", 12, _anthropic_call_fails),
    Fault("webhooks lost, repeated or late", 3, _webhooks_misbehave),
    Fault("webhooks reordered", 2, _webhooks_reordered),
    Fault("sandbox vanishes", 2, _sandbox_vanishes),
    Fault("sandbox expires", 3, _sandbox_expires),
    Fault("sandbox not listed", 2, _sandbox_hidden),
    Fault("sandbox listed twice", 1, _sandbox_listed_twice),
    Fault("E2B quota lowered", 1, _quota_lowered),
    Fault("worker's lease lapses", 3, _lease_lapses),
    Fault("process killed in a sandbox", 5, _process_killed),
    Fault("worker frozen", 2, _worker_frozen),
)
