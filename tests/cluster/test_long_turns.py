"""Turns that outlast the sandbox's countdown, and pauses between messages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, begin, paused, sandboxes_of
from ..support.systems import local_system
from ..support.waiting import eventually


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    settings = {**QUICK, "sandbox_timeout_seconds": "10"}
    async with local_system(control_plane, operator_settings=settings) as running:
        yield running


async def test_turn_that_outlasts_the_countdown_several_times_is_not_interrupted(system: LocalSystem) -> None:
    calls = [{"tool": "bash", "input": {"command": "sleep 5; echo part >> parts; wc -l < parts"}}] * 5
    async with begin(system) as conversation:
        answer = await conversation.say(json.dumps({"script": [*calls, {"say": "parts: {result}"}]}))
        assert "parts: 5" in answer
        (sandbox,) = await sandboxes_of(system, conversation.session_id)
        assert sandbox.resumes == 0, "it ran through"
        assert (await system.e2b_admin.ledger()).operations["set_timeout"] >= 3


async def test_operator_killed_in_the_middle_of_a_long_turn_does_not_interrupt_it(
    system: LocalSystem,
) -> None:
    # As in an installation, the countdown is longer than an operator's absence.
    await system.operator.restart(sandbox_timeout_seconds="60")
    calls = [{"tool": "bash", "input": {"command": "sleep 3; echo part >> parts; wc -l < parts"}}] * 4
    async with begin(system) as conversation:
        await conversation.send(json.dumps({"script": [*calls, {"say": "parts: {result}"}]}))

        async def works() -> bool:
            return (await system.anthropic_admin.session(conversation.session_id)).counts["results"] >= 1

        await eventually("the first tool call is done", works)
        await system.operator.restart(kill=True)
        assert "parts: 4" in await conversation.answer()
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        report = await system.anthropic_admin.session(conversation.session_id)
        assert report.counts["leases"] == 1, "the worker that was there went on"
        (sandbox,) = await sandboxes_of(system, conversation.session_id)
        assert sandbox.resumes == 0


async def test_message_after_a_pause_is_served_in_the_resumed_sandbox(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.say("Run: nohup sleep 1000 > /dev/null 2>&1 & echo $! > pid")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        answer = await conversation.say("Run: kill -0 $(cat pid) && echo still there")
        assert "still there" in answer, "memory survives the pause"
        (sandbox,) = await sandboxes_of(system, conversation.session_id)
        assert sandbox.resumes == 1
