"""Skills that are large: many sessions at once, a slow line, never all bytes in the operator's memory."""

from __future__ import annotations

import asyncio
import io
import os
import time
import zipfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, resource
from ..support.systems import StartSystem
from ..support.waiting import eventually

pytestmark = pytest.mark.alone

MEBIBYTE = 1 << 20


def noise(size: int) -> bytes:
    """A skill with one file of random bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x/noise", os.urandom(size))
    return buffer.getvalue()


async def agent_with(system: LocalSystem, archive: bytes) -> str:
    skill = await system.anthropic_admin.add_skill("large", archive=archive)
    return await system.anthropic_admin.add_agent(
        skills=[{"type": "custom", "skill_id": skill["skill_id"], "version": "latest"}]
    )


async def peak_memory(system: LocalSystem, done: asyncio.Event) -> int:
    """The most bytes that the operator had resident until `done`, beyond those at the beginning."""
    process = psutil.Process(system.operators[0].process.pid)
    before = most = process.memory_info().rss
    while not done.is_set():
        most = max(most, process.memory_info().rss)
        await asyncio.sleep(0.05)
    return int(most - before)


async def first_turn(system: LocalSystem, conversation: Conversation, seconds: float) -> None:
    answer = await conversation.say("Run: stat -c %s skills/large/noise", timeout_seconds=seconds)
    assert answer.isdecimal(), answer
    status: dict[str, Any] = (await resource(system, conversation.session_id))["status"]
    assert "missingSkills" not in status["sandbox"]


async def growth_by_ten_sessions(system: LocalSystem, skill_size: int) -> int:
    """Give ten sessions at once a skill of this size; return the growth of the operator in bytes."""
    agent = await agent_with(system, noise(skill_size))
    done = asyncio.Event()
    memory = asyncio.create_task(peak_memory(system, done))
    async with AsyncExitStack() as stack:
        conversations = [
            await stack.enter_async_context(
                Conversation.begin(system.user, agent_id=agent, environment_id=system.clouds.environment_id)
            )
            for _ in range(10)
        ]
        began = time.monotonic()
        await asyncio.gather(*(first_turn(system, each, 120) for each in conversations))
        seconds = time.monotonic() - began
    done.set()
    grown = await memory
    print(
        f"10 sessions, {skill_size} bytes: {seconds:.1f} s, the operator grew by {grown / MEBIBYTE:.0f} MiB"
    )
    return grown


async def test_ten_sessions_at_once_get_a_skill_of_24_mb(start_system: StartSystem) -> None:
    # Executed: the memory of a forked process grows by each page that it first touches.
    system = await start_system(operator_settings=QUICK, fork_server=None)
    await growth_by_ten_sessions(system, 12)  # what ten sessions need without large skills is not measured
    assert await growth_by_ten_sessions(system, 24_000_000) < 128 * MEBIBYTE


async def test_skill_of_60_mb_comes_over_20_mbit_a_second(start_system: StartSystem) -> None:
    speed = 20_000_000 / 8
    system = await start_system(
        operator_settings={**QUICK, "worker_start_timeout_seconds": "30"},
        fork_server=None,
        anthropic_settings={"skills": {"bytes_per_second": speed}},
        e2b_settings={"upload_bytes_per_second": speed},
    )
    agent = await agent_with(system, noise(60_000_000))
    done = asyncio.Event()
    memory = asyncio.create_task(peak_memory(system, done))
    began = time.monotonic()
    async with Conversation.begin(
        system.user, agent_id=agent, environment_id=system.clouds.environment_id
    ) as conversation:
        await first_turn(system, conversation, 170)
        seconds = time.monotonic() - began
        [sandbox] = await system.e2b_admin.sandboxes()
        home = Path("/opt/anthropic-managed-agents")
        assert not list(sandbox.path(str(home / "skill-parts")).iterdir())

        async def rests() -> bool:
            return not await system.e2b_admin.sandboxes("running")

        await eventually("the sandbox is paused", rests)
    done.set()
    grown = await memory
    print(f"60 MB: {seconds:.1f} s, the operator grew by {grown / MEBIBYTE:.0f} MiB")
    assert grown < 64 * MEBIBYTE
