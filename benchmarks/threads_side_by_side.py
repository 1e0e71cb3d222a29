"""Measures commands of several threads of one session, against the same commands one after the other.

Both in one run: the real worker serves a session of the simulator whose threads each run `sleep 1`; first
with `maxParallelCalls` 1, which is what the SDK's runner does, then with the setting's default. The exit code
is 1 if side by side took more than a quarter: `python benchmarks/threads_side_by_side.py [--threads 20]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem

LIMIT_RATIO = 0.25
SECONDS = 1.0


async def turn(threads: int, **settings: str) -> float:
    """Return how long a turn takes in which each of `threads` threads runs one command."""
    command = {"tool": "bash", "input": {"command": f"sleep {SECONDS}; echo done"}, "expect": "done"}
    script = json.dumps({"script": [{"threads": [[command]] * threads}, {"say": "all done"}]})
    async with (
        LocalSystem(operator_settings=settings, delete_sessions_at_exit=False) as system,
        Conversation.begin(
            system.user, agent_id=system.agent_id, environment_id=system.clouds.environment_id
        ) as conversation,
    ):
        await conversation.say("Run: true")  # the worker waits for the next message
        began = time.monotonic()
        answer = await conversation.say(script, timeout_seconds=threads * SECONDS * 5 + 60)
        seconds = time.monotonic() - began
        ledger = await system.anthropic_admin.ledger(calls=False)
        results = ledger.sessions[conversation.session_id].counts["results"]
        assert (answer, results) == ("all done", threads + 1)
        return seconds


async def measure(threads: int) -> tuple[float, float]:
    """Return the seconds one after the other, and side by side."""
    serial = await turn(threads, max_idle_seconds="60", max_parallel_calls="1")
    return serial, await turn(threads, max_idle_seconds="60")


def main() -> int:
    """Run the benchmark and print both times and their ratio. Return 1 if it is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=20)
    serial, beside = asyncio.run(measure(parser.parse_args().threads))
    print(f"one after the other: {serial:.1f} s, side by side: {beside:.1f} s, ratio {beside / serial:.2f}")
    return int(beside > serial * LIMIT_RATIO)


if __name__ == "__main__":
    sys.exit(main())
