"""Plays three sessions at real speed: a turn of six minutes, a pause between messages, and no message.

No time is scaled: the lease lasts five minutes, the sandbox's countdown fifteen, and a session has a minute
to get a message. It takes about seven minutes: `python benchmarks/long_turns.py`. The exit code is 1 unless
the long turn had one sandbox and one worker, the second message found the first one's file in the same
sandbox, and the work of the session without a message was stopped without a sandbox.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

from managed_session_api.names import METADATA_SESSION
from managed_session_cli.conversation import Conversation
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem

PARTS = 7
PART_SECONDS = 55
PAUSE_SECONDS = 30
SILENCE_SECONDS = 75


async def sandboxes_of(system: LocalSystem, conversation: Conversation) -> list[SimulatedSandbox]:
    """Return all sandboxes that the session has ever had."""
    return [
        sandbox
        for sandbox in await system.e2b_admin.sandboxes()
        if sandbox.metadata.get(METADATA_SESSION) == conversation.session_id
    ]


async def long_turn(system: LocalSystem, conversation: Conversation) -> bool:
    """Send a message whose tool calls take more than six minutes."""
    call = f"sleep {PART_SECONDS}; echo part >> parts; wc -l < parts"
    steps = [{"tool": "bash", "input": {"command": call}}] * PARTS
    began = time.monotonic()
    answer = await conversation.say(
        json.dumps({"script": [*steps, {"say": "parts: {result}"}]}), timeout_seconds=600
    )
    (sandbox,) = await sandboxes_of(system, conversation)
    leases = (await system.anthropic_admin.session(conversation.session_id)).counts["leases"]
    print(
        f"long turn: {time.monotonic() - began:.0f} s, answer {answer!r}, {leases} worker, "
        f"sandbox resumed {sandbox.resumes} times"
    )
    return f"parts: {PARTS}" in answer and leases == 1 and sandbox.resumes == 0


async def two_messages(system: LocalSystem, conversation: Conversation) -> bool:
    """Send two messages, half a minute apart."""
    await conversation.say("Run: echo from the first turn > kept")
    await asyncio.sleep(PAUSE_SECONDS)
    began = time.monotonic()
    answer = await conversation.say("Run: cat kept")
    (sandbox,) = await sandboxes_of(system, conversation)
    print(
        f"{PAUSE_SECONDS} s between two messages: second answered in {time.monotonic() - began:.2f} s with "
        f"{answer!r}, sandbox resumed {sandbox.resumes} times"
    )
    return "from the first turn" in answer


async def no_message(system: LocalSystem, conversation: Conversation) -> bool:
    """Play a session that gets no message."""
    await asyncio.sleep(SILENCE_SECONDS)
    items, _ = await system.anthropic_admin.work()
    states = [item["state"] for item in items if item["data"]["id"] == conversation.session_id]
    sandboxes = await sandboxes_of(system, conversation)
    print(f"no message for {SILENCE_SECONDS} s: work {states}, {len(sandboxes)} sandboxes")
    return states == ["stopped"] and not sandboxes


async def play() -> bool:
    """Play all three at once. Return whether all went well."""
    async with LocalSystem() as system:

        async def on_new_session(part: Callable[[LocalSystem, Conversation], Awaitable[bool]]) -> bool:
            async with Conversation.begin(
                system.user, agent_id=system.agent_id, environment_id=system.clouds.environment_id
            ) as conversation:
                return await part(system, conversation)

        parts = (long_turn, two_messages, no_message)
        return all(await asyncio.gather(*(on_new_session(part) for part in parts)))


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(play()) else 1)
