"""Measures an operator with many idle sessions: its start, and what it uses while nothing happens.

It is settled when it leads, has resynced once, and has reconciled each resource without finding anything to
do. The exit code is 1 if that took more than 20 seconds or changed a resource: `python
benchmarks/restart_at_scale.py [--sessions 2000] [--rest-seconds 60]`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass

import psutil
from managed_session_api.names import PLURAL, resource_name
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.settled_sessions import Restart, add_settled_sessions, restart_operator

LIMIT_SECONDS = 20.0


@dataclass(frozen=True)
class AtRest:
    """What an operator with many idle sessions uses.

    Attributes:
        restart: its start.
        start_cpu_seconds: CPU time until it was settled.
        cpu: fraction of a core that it uses while nothing happens.
        memory_mb: its resident memory after that, in megabytes.
    """

    restart: Restart
    start_cpu_seconds: float
    cpu: float
    memory_mb: float


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time that a process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure(sessions: int, rest_seconds: float) -> AtRest:
    """Create the sessions, restart the operator, and let it rest."""
    async with (
        LocalSystem(operator_settings={"max_idle_seconds": "1"}, delete_sessions_at_exit=False) as system,
        Conversation.begin(
            system.user, agent_id=system.agent_id, environment_id=system.clouds.environment_id
        ) as conversation,
    ):
        await conversation.say("Run: true")
        await system.kubectl(
            "wait",
            "--for=jsonpath={.status.phase}=Idle",
            "--timeout=60s",
            f"{PLURAL}/{resource_name(conversation.session_id)}",
        )
        await system.operator.process.stop()
        began = time.monotonic()
        await add_settled_sessions(system, conversation.session_id, sessions - 1)
        print(f"{sessions} sessions at rest, made in {time.monotonic() - began:.1f} s")
        restart = await restart_operator(system)
        operator = psutil.Process(system.operator.process.pid)
        settled = cpu_seconds(operator)
        await asyncio.sleep(rest_seconds)
        cpu = (cpu_seconds(operator) - settled) / rest_seconds
        return AtRest(restart, settled, cpu, operator.memory_info().rss / 1e6)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=2000, help="sessions at rest")
    parser.add_argument("--rest-seconds", type=float, default=60, help="how long to watch it rest")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.sessions, arguments.rest_seconds))
    restart = found.restart
    print(f"settled {restart.seconds:.1f} s after the start of the process (limit {LIMIT_SECONDS:.0f} s)")
    print(f"CPU until then: {found.start_cpu_seconds:.1f} s")
    print(f"CPU at rest: {found.cpu:.1%} of a core; memory: {found.memory_mb:.0f} MB")
    print(f"resources written: {len(restart.written)}")
    print(f"calls to E2B: {restart.e2b_calls}")
    print(f"calls to Anthropic: {restart.anthropic_calls}")
    return 0 if restart.seconds < LIMIT_SECONDS and not restart.written else 1


if __name__ == "__main__":
    sys.exit(main())
