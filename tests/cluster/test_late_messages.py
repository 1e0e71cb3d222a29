"""Messages sent while a worker gives its work back: all are answered, whatever the queue does for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest
from managed_session_cli.conversation import Conversation, NoAnswerError
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, begin, paused
from ..support.systems import local_system
from ..support.waiting import eventually

SESSIONS, TURNS = 8, 14
pytestmark = pytest.mark.alone

STOP_MILLISECONDS = 300
"""What a stop takes: half before it has taken effect, half after."""
ANSWER_SECONDS = 40


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(
        control_plane,
        operator_settings=QUICK,
        anthropic_settings={"latencies": {"work.stop": {"mean_ms": STOP_MILLISECONDS}}},
    ) as running:
        yield running


async def stream_is_closed(system: LocalSystem, conversation: Conversation) -> None:
    """Wait for the moment in which the session's worker has stopped listening."""

    async def look() -> bool:
        return not (await system.anthropic_admin.session(conversation.session_id)).worker_streams

    await eventually("the worker closes its stream", look)


async def aim(system: LocalSystem, conversation: Conversation) -> int:
    """Send each message in the moment after its predecessor's worker closed its stream; how many are lost."""
    for number in range(TURNS):
        try:
            answer = await conversation.say(
                f"Run: echo {number} >> runs; cat runs", timeout_seconds=ANSWER_SECONDS
            )
        except NoAnswerError:
            return TURNS - number
        assert answer.split() == [str(each) for each in range(number + 1)], "each call runs once"
        await stream_is_closed(system, conversation)
    return 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "queued_again", [False, True], ids=["the session wedges", "its work is queued again"]
)
async def test_every_message_that_is_aimed_at_the_moment_of_idling_is_answered(
    system: LocalSystem, queued_again: bool
) -> None:
    await system.anthropic_admin.change_settings(work={"requeue_unanswered_on_stop": queued_again})
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(begin(system)) for _ in range(SESSIONS)]
        lost = await asyncio.gather(*(aim(system, each) for each in sessions))
        reports = [await system.anthropic_admin.session(each.session_id) for each in sessions]
        while_held = sum(turn.worker_live for report in reports for turn in report.turns)
        print(f"{sum(lost)} of {SESSIONS * TURNS} messages lost, {while_held} came while their item was held")
        assert sum(lost) == 0
        assert while_held >= SESSIONS, "the moment was met"
        for report in reports:
            assert report.counts["worker_streams_overlapping"] == 0
            assert report.counts["results_repeated"] == 0
            assert report.counts["results_rejected"] == 0
        for each in sessions:
            await eventually("the sandbox is paused", partial(paused, system, each.session_id))
