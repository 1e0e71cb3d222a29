"""A hand-over: time from a leader's SIGTERM to the next leader's Lease and to its first poll.

The settings are those of an installation (a Lease of 15 s). The times come from the Lease's `acquireTime` in
the API server and from the calls in the simulator's ledger.
"""

from __future__ import annotations

import json
import statistics
from datetime import UTC, datetime

from managed_session_devkit.system.local_system import LocalSystem

from benchmarks.figures import Figure
from benchmarks.sessions import until

LEASE = "managed-session-operator"
TIMES = 10
GOAL_SECONDS = 2.0


async def acquired(system: LocalSystem) -> tuple[str, datetime]:
    """Return the holder of the Lease, and since when."""
    found = await system.control_plane.kubectl(
        f"--namespace={system.system_namespace}", "get", "lease", LEASE, "--output=json"
    )
    spec = json.loads(found)["spec"]
    return spec.get("holderIdentity") or "", datetime.fromisoformat(spec["acquireTime"])


async def hand_over(system: LocalSystem) -> tuple[float, float]:
    """Stop the leader. Return the seconds until the Lease has a new holder, and until the next poll."""
    holder, _ = await acquired(system)
    pod = next(each for each in system.operators if f"-{each.process.pid}-" in holder)
    await system.anthropic_admin.clear_ledger()
    requested_at = datetime.now(UTC)
    await pod.process.stop(grace_seconds=30)

    async def has_changed() -> bool:
        new, _ = await acquired(system)
        return bool(new) and new != holder

    await until(has_changed, "there is a new leader", every=0.02)
    _, since = await acquired(system)
    polled = await _polled_after(system, since)
    await pod.start()
    await pod.wait_ready()
    return (since - requested_at).total_seconds(), (polled - requested_at).total_seconds()


async def _polled_after(system: LocalSystem, since: datetime) -> datetime:
    times: list[datetime] = []

    async def has_polled() -> bool:
        calls = (await system.anthropic_admin.ledger()).calls
        polls = [call["at"] for call in calls if call["operation"] == "work.poll"]
        times[:] = [at for at in (datetime.fromtimestamp(each, UTC) for each in polls) if at >= since]
        return bool(times)

    await until(has_polled, "the new leader polls", every=0.05)
    return min(times)


async def measure() -> list[Figure]:
    """Measure some hand-overs."""
    async with LocalSystem(operators=2, delete_sessions_at_exit=False) as system:

        async def has_leader() -> bool:
            return bool((await acquired(system))[0])

        await until(has_leader, "somebody leads")
        found = [await hand_over(system) for _ in range(TIMES)]
    leads, polls = zip(*found, strict=True)
    return [
        Figure(
            key="lead-p50", name="another operator leads, median", value=statistics.median(leads), unit="s",
        ),
        Figure(
            key="lead-max", name="another operator leads, longest", value=max(leads), unit="s",
            goal=GOAL_SECONDS,
        ),
        Figure(key="poll-p50", name="it polls, median", value=statistics.median(polls), unit="s"),
    ]  # fmt: skip
