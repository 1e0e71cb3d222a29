"""Connections that die without a word, as at E2B's pauses: whoever held one hears again soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import e2b
import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, begin, sandboxes_of
from ..support.systems import StartSystem, local_system
from ..support.waiting import eventually

SESSIONS = 3
SECONDS_AFTER_A_THAW = 5
SECONDS_OF_A_BUSY_MACHINE = 20
"""Well before a stream without pings is given up, which takes half a minute."""
SECONDS_AFTER_A_LOSS = 45
SECONDS_TO_A_PING = 13
PATIENT = {**QUICK, "max_idle_seconds": "90"}
"""The worker waits for further messages for so long, so that it is not a new one that answers."""

Cut = Callable[[LocalSystem, list[Conversation]], Awaitable[None]]


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings=PATIENT) as running:
        yield running


async def only_sandbox(system: LocalSystem, conversation: Conversation) -> SimulatedSandbox:
    (sandbox,) = await sandboxes_of(system, conversation.session_id)
    return sandbox


async def in_a_call(system: LocalSystem, conversation: Conversation) -> None:
    """Wait until the tool call of this session runs."""

    async def look() -> bool:
        sandboxes = await sandboxes_of(system, conversation.session_id, "running")
        return any(sandbox.path("/mnt/session/running").exists() for sandbox in sandboxes)

    await eventually("the tool call runs", look)


async def resumed(system: LocalSystem, conversation: Conversation, resumes: int = 1) -> None:
    async def look() -> bool:
        sandbox = await only_sandbox(system, conversation)
        return sandbox.state == "running" and sandbox.resumes >= resumes

    await eventually("the sandbox was resumed", look, seconds=90)


async def served_by_the_same_worker(system: LocalSystem, conversation: Conversation) -> None:
    report = await system.anthropic_admin.session(conversation.session_id)
    assert report.counts["leases"] == 1
    assert report.counts["results_repeated"] == 0
    assert report.counts["worker_streams_overlapping"] == 0


async def cut_in_a_call(system: LocalSystem, seconds: int, cut: Cut, *, after: int = 0) -> list[float]:
    """Play sessions that `cut` hits in a call; how long the answer to the next message took.

    Args:
        system: in which they are played.
        seconds: how much of the call is left then.
        cut: what is done to them.
        after: how much of it is over.
    """
    async with AsyncExitStack() as stack:
        conversations = [await stack.enter_async_context(begin(system)) for _ in range(SESSIONS)]
        for conversation in conversations:
            await conversation.send(f"Run: sleep {after}; touch running; sleep {seconds}; echo survived")
        for conversation in conversations:
            await in_a_call(system, conversation)
        await cut(system, conversations)

        async def go_on(conversation: Conversation) -> float:
            assert "survived" in await conversation.answer()
            began = time.monotonic()
            assert "heard" in await conversation.say("Run: echo heard")
            return time.monotonic() - began

        took = await asyncio.gather(*(go_on(conversation) for conversation in conversations))
        print("next messages answered after", [f"{each:.1f} s" for each in took])
        for conversation in conversations:
            await served_by_the_same_worker(system, conversation)
        return took


def assert_at_once(took: list[float]) -> None:
    """The answers came soon; all at once, on a busy machine, not all of them come as soon as one would."""
    assert min(took) < SECONDS_AFTER_A_THAW
    assert max(took) < SECONDS_OF_A_BUSY_MACHINE


async def expire(system: LocalSystem, conversations: list[Conversation]) -> None:
    for conversation in conversations:
        await system.e2b_admin.expire((await only_sandbox(system, conversation)).id)
    for conversation in conversations:
        await resumed(system, conversation)


async def pause_by_hand(system: LocalSystem, conversations: list[Conversation]) -> None:
    options: dict[str, Any] = system.clouds.e2b_options
    sdk = e2b.E2B(**options)
    for conversation in conversations:
        sandbox_id = (await only_sandbox(system, conversation)).id
        await sdk.AsyncSandbox.pause(sandbox_id)
    for conversation in conversations:
        await resumed(system, conversation)


@pytest.mark.parametrize("cut", [expire, pause_by_hand])
async def test_answer_after_a_pause_in_a_call_comes_at_once(system: LocalSystem, cut: Cut) -> None:
    took = await cut_in_a_call(system, 3, cut)
    assert_at_once(took)


async def test_answer_after_a_roll_over_in_a_call_comes_at_once(
    start_system: StartSystem,
) -> None:
    system = await start_system(
        operator_settings={**PATIENT, "sandbox_max_lifetime_seconds": "20"},
        e2b_settings={"max_lifetime_seconds": 20},
    )

    async def rolled_over(system: LocalSystem, conversations: list[Conversation]) -> None:
        for conversation in conversations:
            await resumed(system, conversation)

    # Rolled over every 15 s. The call ends between two of them: a result whose answer is cut is sent again.
    took = await cut_in_a_call(system, 38, rolled_over)
    assert_at_once(took)


async def test_answer_comes_after_ten_seconds_without_a_network(system: LocalSystem) -> None:
    lost_at = 0.0

    async def lose(system: LocalSystem, _: list[Conversation]) -> None:
        nonlocal lost_at
        lost_at = time.monotonic()
        assert await system.anthropic_admin.lose_network(10) >= SESSIONS
        await system.e2b_admin.lose_network(10)

    await cut_in_a_call(system, 12, lose)
    assert time.monotonic() - lost_at < SECONDS_AFTER_A_LOSS


async def test_stream_that_fell_silent_is_noticed_without_a_sweep(start_system: StartSystem) -> None:
    system = await start_system(operator_settings={**PATIENT, "resync_interval_seconds": "300"})

    async def pause_unseen(system: LocalSystem, conversations: list[Conversation]) -> None:
        began = time.monotonic()
        await pause_by_hand(system, conversations)
        print(f"resumed after {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < SECONDS_AFTER_A_LOSS

    took = await cut_in_a_call(system, 3, pause_unseen, after=SECONDS_TO_A_PING)
    assert_at_once(took)
