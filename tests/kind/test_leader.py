"""The leading operator's pod stops, with and without notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator

from .commands import Kubectl
from .installation import OPERATOR, SYSTEM, Installation
from .turns import held_turn

HAND_OVER_SECONDS = 10.0
"""Generous for a busy machine; it is about a second, and would be 15 by the Lease's end."""


async def test_killed_leader_loses_neither_running_nor_new_turns(installation: Installation) -> None:
    async with held_turn(installation) as running, installation.clouds.begin() as beginning:
        leader = await installation.leader()
        answer = asyncio.create_task(beginning.say("Run: echo begun", timeout_seconds=120))
        await installation.kubectl(
            f"--namespace={SYSTEM}", "delete", "pod", leader, "--force", "--grace-period=0"
        )
        await installation.leader(other_than=leader)
        assert await answer == "begun"
        await running.finish()
        await installation.idle(beginning.session_id)
    await installation.rolled_out()


async def test_leader_that_stops_hands_over_at_once(installation: Installation) -> None:
    leader = await installation.leader()
    async with holders(installation.kubectl) as seen:
        assert (await anext(seen))[1].startswith(leader)
        await installation.kubectl(f"--namespace={SYSTEM}", "delete", "pod", leader, "--wait=false")
        # The time that kubectl takes to start does not count.
        requested_at = time.monotonic()
        async with asyncio.timeout(60):
            while True:
                at, holder = await anext(seen)
                if holder == "":
                    released = at
                elif not holder.startswith(leader):
                    break
    print(f"released {released - requested_at:.2f} s after the request, taken {at - released:.2f} s later")
    assert at - requested_at < HAND_OVER_SECONDS
    await installation.rolled_out()


@contextlib.asynccontextmanager
async def holders(kubectl: Kubectl) -> AsyncIterator[AsyncIterator[tuple[float, str]]]:
    """Yield the holder of the Lease now and at each change, with the time."""
    process = await asyncio.create_subprocess_exec(
        "kubectl", f"--namespace={SYSTEM}", "get", "lease", OPERATOR, "--watch", "--output=json",
        env={**os.environ, **kubectl.environment}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield _identities(process)
    finally:
        process.kill()
        await process.wait()


async def _identities(process: asyncio.subprocess.Process) -> AsyncIterator[tuple[float, str]]:
    assert process.stdout is not None
    text = ""
    async for line in process.stdout:
        text += line.decode()
        if line == b"}\n":
            yield time.monotonic(), json.loads(text)["spec"].get("holderIdentity") or ""
            text = ""
