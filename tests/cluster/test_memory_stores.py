"""Memory stores of a session: they outlast a pause and a lost sandbox, and a failure is a condition."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import (
    QUICK,
    allow,
    becomes,
    begin_with_store,
    condition,
    paused,
    resource,
    sandboxes_of,
    warned,
)
from ..support.systems import local_system
from ..support.waiting import eventually

ASK = {"tool": "bash", "input": {"command": "echo allowed"}, "permission": "ask"}


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    settings = {**QUICK, "pause_while_waiting_seconds": "1"}
    async with local_system(control_plane, operator_settings=settings) as running:
        yield running


async def content(system: LocalSystem, store: str) -> dict[str, str | None]:
    """The store's memories by path, as Anthropic has them."""
    listed = system.user.beta.memory_stores.memories.list(store, view="full")
    return {memory.path: memory.content async for memory in listed if memory.type == "memory"}


async def rests(system: LocalSystem, conversation: Conversation) -> None:
    await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))


async def test_memory_is_uploaded_before_a_pause_and_outlasts_a_lost_sandbox(system: LocalSystem) -> None:
    async with begin_with_store(system, "memstore_notes") as conversation:
        write = {"tool": "bash", "input": {"command": "echo learned > /mnt/memory/memstore_notes/lesson.md"}}
        await conversation.send(json.dumps({"script": [write, ASK, {"say": "{result}"}]}))
        await rests(system, conversation)
        assert "awaitedAnswers" in (await resource(system, conversation.session_id))["status"]["work"]
        # Whatever happens to the paused sandbox, this cannot be lost any more.
        assert await content(system, "memstore_notes") == {"/lesson.md": "learned\n"}

        await allow(system, conversation)
        assert await conversation.answer() == "allowed"
        await becomes(system, conversation.session_id, "Idle", status="True")
        await rests(system, conversation)

        [sandbox] = await sandboxes_of(system, conversation.session_id)
        await system.e2b_admin.vanish(sandbox.id)
        answer = await conversation.say("Run: cat /mnt/memory/memstore_notes/lesson.md")
        assert "learned" in answer.splitlines()
        assert await condition(system, conversation.session_id, "MemoryStoreFailed") == {}


async def test_condition_says_what_was_not_uploaded_until_a_turn_uploads_everything(
    system: LocalSystem,
) -> None:
    async with begin_with_store(system, "memstore_refused") as conversation:
        await system.anthropic_admin.add_fault("memories.create", {"status": 403}, times=None)
        await conversation.say("Run: echo lost > /mnt/memory/memstore_refused/a.md; echo written")

        async def told() -> str | None:
            found = await condition(system, conversation.session_id, "MemoryStoreFailed")
            return found["message"] if found.get("status") == "True" else None

        message = await eventually("the condition says so", told)
        assert "memstore_refused: 'a.md' could not be uploaded" in message
        await warned(system, conversation.session_id, "MemoryStoreFailed")
        await system.anthropic_admin.clear_faults()
        await rests(system, conversation)
        await conversation.say("Run: echo kept > /mnt/memory/memstore_refused/b.md; echo written")

        async def gone() -> bool:
            return await condition(system, conversation.session_id, "MemoryStoreFailed") == {}

        await eventually("the condition is gone", gone)
        assert await content(system, "memstore_refused") == {"/b.md": "kept\n"}
