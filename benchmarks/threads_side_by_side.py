"""Commands of several threads of one session, against the same commands one after the other.

The real worker serves a session of the simulator whose threads each run a command of one second; first with
`maxParallelCalls` 1, which is what the SDK's runner does, then with the setting's default.
"""

from __future__ import annotations

import json
import time

from managed_session_devkit.system.local_system import LocalSystem

from benchmarks.figures import Figure
from benchmarks.sessions import begin

SCALES = (2, 6, 20)
GOAL = 0.25
SECONDS = 1.0


async def turn(system: LocalSystem, threads: int) -> float:
    """Return how long a turn takes in which each of `threads` threads runs one command."""
    command = {"tool": "bash", "input": {"command": f"sleep {SECONDS}; echo done"}, "expect": "done"}
    script = json.dumps({"script": [{"threads": [[command]] * threads}, {"say": "all done"}]})
    async with begin(system) as conversation:
        await conversation.say("Run: true")  # the worker waits for the next message
        began = time.monotonic()
        answer = await conversation.say(script, timeout_seconds=threads * SECONDS * 5 + 60)
        seconds = time.monotonic() - began
        ledger = await system.anthropic_admin.ledger(calls=False)
        results = ledger.sessions[conversation.session_id].counts["results"]
    if (answer, results) != ("all done", threads + 1):
        raise RuntimeError(f"{results} results instead of {threads + 1}; the answer: {answer}")
    return seconds


async def turns(**settings: str) -> list[float]:
    """Return how long the turn takes with each number of threads."""
    async with LocalSystem(operator_settings=settings, delete_sessions_at_exit=False) as system:
        return [await turn(system, threads) for threads in SCALES]


async def measure() -> list[Figure]:
    """Measure one after the other, and side by side."""
    serial = await turns(max_idle_seconds="60", max_parallel_calls="1")
    beside = await turns(max_idle_seconds="60")
    return [
        Figure(
            key="threads", name="commands of one second, side by side", value=seconds, unit="s",
            scale=threads,
            limit=limit, limit_is="the same commands, one after the other",
            goal=GOAL if threads == max(SCALES) else None,
        )
        for threads, seconds, limit in zip(SCALES, beside, serial, strict=True)
    ]  # fmt: skip
