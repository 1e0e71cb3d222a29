"""Faults of the two clouds: failing calls, vanishing sandboxes, lost webhooks."""

from __future__ import annotations

import os
import signal
from typing import Any

from .fault import Fault
from .plan import PlannedFault
from .shared_state import CONCURRENT_SANDBOXES, SharedState, session_of

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
"""By operation. There is no 4xx, which would claim that an existing sandbox is gone."""

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
    # If an answer is lost, the SDK posts the result again, which would count as a repeated result.
    ("events.send", "sessions_token"): _BEFORE,
    ("events.list", "sessions_token"): _BEFORE,
    ("events.stream", "sessions_token"): [*_BEFORE, {"action": "sever", "after_events": 2}],
}
"""By operation and credential. The user's calls do not fail."""

_OF_WEBHOOKS: list[dict[str, Any]] = [
    {"action": "drop"},
    {"action": "duplicate", "copies": 3},
    {"action": "delay", "seconds": 3},
]


async def _e2b_call_fails(shared: SharedState, planned: PlannedFault) -> None:
    chosen = planned.random
    operation = chosen.choice(list(_OF_E2B))
    action = chosen.choice(_OF_E2B[operation])
    times = chosen.choice((1, 1, 2, 3))
    await shared.system.e2b_admin.add_fault(operation, action, times=times)
    shared.trace.add("chaos", planned.kind, detail=f"{operation} {action} x{times}")


async def _anthropic_call_fails(shared: SharedState, planned: PlannedFault) -> None:
    chosen = planned.random
    operation, credential = chosen.choice(list(_OF_ANTHROPIC))
    action = chosen.choice(_OF_ANTHROPIC[operation, credential])
    times = chosen.choice((1, 1, 2, 3))
    await shared.system.anthropic_admin.add_fault(
        operation, action, match={"credential": credential}, times=times
    )
    shared.trace.add("chaos", planned.kind, detail=f"{operation} by {credential} {action} x{times}")


async def _webhooks_misbehave(shared: SharedState, planned: PlannedFault) -> None:
    chosen = planned.random
    action = chosen.choice(_OF_WEBHOOKS)
    times = chosen.randint(1, 5)
    await shared.system.anthropic_admin.add_fault("webhook.deliver", action, times=times)
    shared.trace.add("chaos", planned.kind, detail=f"{action} x{times}")


async def _webhooks_reordered(shared: SharedState, planned: PlannedFault) -> None:
    await shared.system.anthropic_admin.hold_webhooks()
    try:
        shared.trace.add("chaos", planned.kind)
        await shared.hold(planned.hold_seconds)
    finally:
        await shared.system.anthropic_admin.release_webhooks(planned.random.choice(("lifo", "shuffle")))


async def _sandbox_vanishes(shared: SharedState, planned: PlannedFault) -> None:
    states = planned.random.choice((("running",), ("paused",)))
    sandboxes = await shared.sandboxes(*states)
    if sandboxes:
        sandbox = planned.random.choice(sandboxes)
        await shared.system.e2b_admin.vanish(sandbox.id)
        shared.trace.add("chaos", planned.kind, session_of(sandbox), f"{states[0]} {sandbox.id}")


async def _sandbox_expires(shared: SharedState, planned: PlannedFault) -> None:
    sandboxes = await shared.sandboxes("running")
    if sandboxes:
        sandbox = planned.random.choice(sandboxes)
        await shared.system.e2b_admin.expire(sandbox.id)
        shared.trace.add("chaos", planned.kind, session_of(sandbox), sandbox.id)


async def _sandbox_hidden(shared: SharedState, planned: PlannedFault) -> None:
    sandboxes = await shared.sandboxes("running", "paused")
    if sandboxes:
        sandbox = planned.random.choice(sandboxes)
        await shared.system.e2b_admin.hide(sandbox.id, planned.hold_seconds * 2)
        shared.trace.add("chaos", planned.kind, session_of(sandbox), sandbox.id)


async def _sandbox_listed_twice(shared: SharedState, planned: PlannedFault) -> None:
    sandboxes = await shared.sandboxes("running", "paused")
    if sandboxes:
        sandbox = planned.random.choice(sandboxes)
        await shared.system.e2b_admin.duplicate(sandbox.id, 3)
        shared.trace.add("chaos", planned.kind, session_of(sandbox), sandbox.id)


async def _quota_lowered(shared: SharedState, planned: PlannedFault) -> None:
    await shared.system.e2b_admin.change_settings(max_concurrent_sandboxes=_FEW_SANDBOXES)
    try:
        shared.trace.add("chaos", planned.kind)
        await shared.hold(planned.hold_seconds)
    finally:
        await shared.system.e2b_admin.change_settings(max_concurrent_sandboxes=CONCURRENT_SANDBOXES)


async def _lease_lapses(shared: SharedState, planned: PlannedFault) -> None:
    items, _ = await shared.system.anthropic_admin.work()
    held = sorted(
        item["id"] for item in items if item["state"] == "active" and item["data"]["id"] in shared.sessions
    )
    if held:
        chosen = planned.random.choice(held)
        await shared.system.anthropic_admin.lapse_lease(chosen)
        shared.trace.add("chaos", planned.kind, chosen)


async def _process_killed(shared: SharedState, planned: PlannedFault) -> None:
    """Kill one of our processes in a sandbox: the supervisor, the worker, or a `supervisorctl`."""
    chosen = planned.random
    sandboxes = await shared.sandboxes("running")
    if sandboxes:
        sandbox = chosen.choice(sandboxes)
        ours = [each for each in sandbox.processes if "python" in each.command]
        if ours:
            process = chosen.choice(ours)
            if _signal(process.host_pid, signal.SIGKILL):
                shared.trace.add(
                    "chaos", planned.kind, session_of(sandbox), f"{process.pid}: {process.command}"
                )


async def _worker_frozen(shared: SharedState, planned: PlannedFault) -> None:
    sandboxes = await shared.sandboxes("running")
    if sandboxes:
        sandbox = planned.random.choice(sandboxes)
        admin = shared.system.e2b_admin
        try:
            # Within the block: a freeze whose answer is cancelled has happened all the same.
            await admin.signal_processes(sandbox.id, signal.SIGSTOP, "python")
            shared.trace.add("chaos", planned.kind, session_of(sandbox), f"{planned.hold_seconds:.1f} s")
            await shared.hold(planned.hold_seconds)
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
