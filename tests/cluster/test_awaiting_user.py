"""A session that waits for its user: what is said of it, and of who waits for its place."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, allow, answer, becomes, begin, condition, resource, resyncs_pass, told
from ..support.systems import local_system
from ..support.waiting import eventually

ASK = {"tool": "bash", "input": {"command": "echo confirmed"}, "permission": "ask"}
CUSTOM = {"tool": "approve", "input": {}, "custom": True}


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    one_place = {**QUICK, "max_active_sandboxes": "1"}
    async with local_system(control_plane, operator_settings=one_place) as running:
        yield running


def playing(*tools: dict[str, Any]) -> str:
    return json.dumps({"script": [*tools, {"say": "{result}"}]})


async def wait_is_over(system: LocalSystem, conversation: Conversation) -> None:
    """Wait until the resource says no more that the session waits; written after the worker has said so."""

    async def look() -> bool:
        status = (await resource(system, conversation.session_id))["status"]
        return "awaitingUserSince" not in status["work"]

    await eventually("the wait is over", look)


async def metric(system: LocalSystem, name: str) -> float:
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        text = (await client.get(f"{system.operators[0].probe_url}/metrics")).text
    found = re.search(rf"^managed_sessions_{name} (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


async def test_wait_is_told_keeps_its_place_and_ends_with_the_answer(system: LocalSystem) -> None:
    async with begin(system) as waiting, begin(system) as other:
        await waiting.send(playing(ASK))
        said = await becomes(system, waiting.session_id, "AwaitingUser", status="True")
        work = (await resource(system, waiting.session_id))["status"]["work"]
        assert work["awaitingUserSince"] in said["message"]
        assert "user.tool_confirmation for bash" in said["message"]
        assert (await condition(system, waiting.session_id, "WorkerRunning"))["reason"] == "AwaitingUser"
        await told(system, waiting.session_id, "AwaitingUser")

        async def counted() -> bool:
            return await metric(system, "awaiting_user") == 1

        await eventually("the session is counted", counted)
        assert await metric(system, "oldest_user_wait_seconds") > 0

        await other.send("Run: echo other")
        line = await becomes(system, other.session_id, "AwaitingCapacity")
        assert "1 of them by sessions that wait for their user" in line["message"]

        before = (await resource(system, waiting.session_id))["metadata"]["resourceVersion"]
        await resyncs_pass(system, 2)
        assert (await resource(system, waiting.session_id))["metadata"]["resourceVersion"] == before

        await allow(system, waiting)
        assert await waiting.answer() == "confirmed"
        assert await other.answer() == "other"
        await wait_is_over(system, waiting)

        async def counted_no_more() -> bool:
            return await metric(system, "awaiting_user") == 0

        await eventually("nobody waits", counted_no_more)


async def test_wait_for_a_custom_tool_survives_the_operator(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.send(playing(CUSTOM, ASK | {"permission": "allow"}))
        await becomes(system, conversation.session_id, "AwaitingUser", status="True")
        before = (await resource(system, conversation.session_id))["status"]["work"]["awaitingUserSince"]
        await system.operators[0].restart(kill=True)
        await resyncs_pass(system, 2)
        status = (await resource(system, conversation.session_id))["status"]
        assert status["work"]["awaitingUserSince"] == before
        content = [{"type": "text", "text": "go"}]
        await answer(system, conversation, type="user.custom_tool_result", content=content)
        assert await conversation.answer() == "confirmed"
        await wait_is_over(system, conversation)


async def test_wait_that_is_broken_off_by_the_user_gives_its_place_back(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.send(playing(ASK))
        await becomes(system, conversation.session_id, "AwaitingUser", status="True")
        interrupt: Any = [{"type": "user.interrupt"}]
        await system.user.beta.sessions.events.send(conversation.session_id, events=interrupt)
        await wait_is_over(system, conversation)
        await becomes(system, conversation.session_id, "Idle", status="True")
