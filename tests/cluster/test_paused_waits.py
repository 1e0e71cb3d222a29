"""Waiting for a person costs nothing: the sandbox is paused, its slot is free, and the answer goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import (
    QUICK,
    allow,
    answer,
    becomes,
    begin,
    condition,
    paused,
    resource,
    resyncs_pass,
    sandboxes_of,
)
from ..support.systems import local_system
from ..support.waiting import eventually

ONCE = {
    "tool": "bash",
    "input": {"command": "echo x >> runs; cat runs"},
    "permission": "ask",
}
APPROVE = {"tool": "approve", "input": {}, "custom": True}
LEASE_SECONDS = 8
"""Long enough for the heartbeats of a busy machine, short enough to wait for its end."""


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    settings = {**QUICK, "max_active_sandboxes": "1", "pause_while_waiting_seconds": "1"}
    async with local_system(control_plane, operator_settings=settings) as running:
        yield running


def playing(*steps: dict[str, Any]) -> str:
    return json.dumps({"script": [*steps, {"say": "{result}"}]})


async def approve(system: LocalSystem, conversation: Conversation) -> None:
    content = [{"type": "text", "text": "approved"}]
    await answer(system, conversation, type="user.custom_tool_result", content=content)


async def rests(system: LocalSystem, conversation: Conversation) -> str:
    """Wait until the session waits in a paused sandbox, as the resource says. Return the message."""

    async def look() -> str | None:
        if not await paused(system, conversation.session_id):
            return None
        said = await condition(system, conversation.session_id)
        told = (said.get("status"), said.get("reason")) == ("True", "AwaitingUser")
        return said["message"] if told and "Its sandbox is paused" in said["message"] else None

    return await eventually("it waits in a paused sandbox", look)


async def item_is(system: LocalSystem, conversation: Conversation, state: str) -> None:
    async def look() -> bool:
        items, _ = await system.anthropic_admin.work()
        return [each["state"] for each in items if each["id"] == conversation.session_id] == [state]

    await eventually(f"its work is {state}", look)


async def history(system: LocalSystem, conversation: Conversation) -> list[str]:
    [sandbox] = await sandboxes_of(system, conversation.session_id)
    return [each["event"] for each in sandbox.history]


async def leases(system: LocalSystem, conversation: Conversation) -> int:
    return (await system.anthropic_admin.session(conversation.session_id)).counts["leases"]


async def test_wait_gives_its_slot_back_and_the_same_worker_goes_on(system: LocalSystem) -> None:
    async with begin(system) as waiting, begin(system) as other:
        await waiting.send(playing(ONCE, APPROVE))
        message = await rests(system, waiting)
        assert "user.tool_confirmation for bash" in message
        assert (await condition(system, waiting.session_id, "WorkerRunning"))["status"] == "False"
        await other.send("Run: echo other")
        assert await other.answer() == "other", "the only slot is free"
        before = await resource(system, waiting.session_id)
        await resyncs_pass(system, 2)
        assert await resource(system, waiting.session_id) == before, "it rests without a write"

        await allow(system, waiting)
        message = await rests_again(system, waiting, message)
        assert "user.custom_tool_result for approve" in message
        await system.operators[0].restart(kill=True)
        await approve(system, waiting)
        assert await waiting.answer() == "approved"
        await becomes(system, waiting.session_id, "Idle", status="True")
        assert await leases(system, waiting) == 1
        work = (await resource(system, waiting.session_id))["status"]["work"]
        assert not {"awaitingUserSince", "awaitedAnswers", "waitPausedAt"} & work.keys()


async def rests_again(system: LocalSystem, conversation: Conversation, before: str) -> str:
    """Wait until the session rests because of another call than before."""

    async def look() -> str | None:
        message = await rests(system, conversation)
        return message if message != before else None

    return await eventually("it waits for the next answer", look)


PLATFORMS = {
    "the lapsed work is queued": ({}, {}),
    "the answer queues the work": ({"lapse_while_idle": "stop"}, {"answers_queue_work": True}),
    "nothing queues the work": ({"lapse_while_idle": "stop"}, {}),
}


@pytest.mark.parametrize("platform", PLATFORMS)
async def test_answer_after_the_lease_is_served_once(system: LocalSystem, platform: str) -> None:
    work, events = PLATFORMS[platform]
    before = await system.anthropic_admin.settings()
    await system.anthropic_admin.change_settings(
        work={"lease_ttl_seconds": LEASE_SECONDS, **work}, events=events
    )
    try:
        async with begin(system) as conversation:
            background = {"tool": "bash", "input": {"command": "sleep 864.2 >/dev/null 2>&1 & echo $! > job"}}
            still = {"tool": "bash", "input": {"command": "cat runs; kill -0 $(cat job) && echo lives"}}
            await conversation.send(playing(background, ONCE, still))
            await rests(system, conversation)
            await item_is(system, conversation, "stopped" if work else "queued")
            await resyncs_pass(system, 3)
            assert await history(system, conversation) == ["created", "paused"], "a day costs no more"
            await allow(system, conversation)
            assert (await conversation.answer()).split() == ["x", "lives"]
            await becomes(system, conversation.session_id, "Idle", status="True")
            assert await history(system, conversation) == ["created", "paused", "resumed", "paused"]
            # And the next message finds everything as ever.
            await conversation.send("Run: echo next")
            assert await conversation.answer() == "next"
    finally:
        await system.anthropic_admin.change_settings(work=before["work"], events=before["events"])


async def test_interrupt_ends_the_wait(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.send(playing(ONCE))
        await rests(system, conversation)
        interrupt: Any = [{"type": "user.interrupt"}]
        await system.user.beta.sessions.events.send(conversation.session_id, events=interrupt)
        await becomes(system, conversation.session_id, "Idle", status="True")
        await conversation.send("Run: echo next")
        assert await conversation.answer() == "next"


async def test_new_sandbox_serves_the_answer_if_the_old_one_is_lost(system: LocalSystem) -> None:
    before = await system.anthropic_admin.settings()
    await system.anthropic_admin.change_settings(work={"lease_ttl_seconds": LEASE_SECONDS})
    try:
        async with begin(system) as conversation:
            await conversation.send(playing(ONCE))
            await rests(system, conversation)
            [sandbox] = await sandboxes_of(system, conversation.session_id)
            await system.e2b_admin.vanish(sandbox.id)

            async def lost() -> bool:
                status = (await resource(system, conversation.session_id))["status"]
                return bool(status["sandbox"]["state"] == "Lost")

            await eventually("the loss is written down", lost)
            await item_is(system, conversation, "queued")
            await resyncs_pass(system, 2)
            assert len(await sandboxes_of(system, conversation.session_id)) == 1, "none for the wait"
            await allow(system, conversation)
            assert await conversation.answer() == "x"
    finally:
        await system.anthropic_admin.change_settings(work=before["work"])
