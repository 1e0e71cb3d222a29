"""Measures a cold start of an operator with 2,000 idle sessions: the time until it is settled, and its calls.

Settled means that it leads, has resynced once, and has reconciled each resource without finding anything to
do. The exit code is 1 if that took more than 20 seconds or changed a resource: `python
benchmarks/restart_at_scale.py [--sessions 2000]`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from managed_session_api.names import PLURAL, resource_name
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.settled_sessions import Restart, add_settled_sessions, restart_operator

LIMIT_SECONDS = 20.0


async def measure(sessions: int) -> Restart:
    """Create the sessions and restart the operator."""
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
        return await restart_operator(system)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=2000, help="sessions at rest")
    restart = asyncio.run(measure(parser.parse_args().sessions))
    print(f"settled {restart.seconds:.1f} s after the start of the process (limit {LIMIT_SECONDS:.0f} s)")
    print(f"resources written: {len(restart.written)}")
    print(f"calls to E2B: {restart.e2b_calls}")
    print(f"calls to Anthropic: {restart.anthropic_calls}")
    return 0 if restart.seconds < LIMIT_SECONDS and not restart.written else 1


if __name__ == "__main__":
    sys.exit(main())
