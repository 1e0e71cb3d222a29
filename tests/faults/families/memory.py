"""Memory stores: not given or not taken for a while, not uploaded when the worker dies, rolled over."""

from __future__ import annotations

import re

from ...support.arrangements import SHORT_LIFE, SHORT_LIMITS
from ...support.classes import only_sandbox
from ...support.held import WAIT, let_go
from ...support.sessions import condition, sandboxes_of, told, warned
from ...support.waiting import eventually
from ..anthropic_side import worker_dies
from ..row import Play, Row
from ..scenario import Scenario

FAMILY = "memory stores"


async def _memories(scenario: Scenario, store: str) -> list[str | None]:
    """The content of the store's memories, as Anthropic has them."""
    listed = scenario.system.user.beta.memory_stores.memories.list(store, view="full")
    return [each.content async for each in listed if each.type == "memory"]


def _passes(operation: str) -> Play:
    """It passes: the memory arrives, and nothing is said."""

    async def play(scenario: Scenario) -> None:
        store = f"memstore_{operation.replace('.', '_')}"
        conversation = await scenario.begin_with_store(store)
        await scenario.system.anthropic_admin.add_fault(operation, {"status": 503}, times=1)
        path = f"/mnt/memory/{store}/lesson.md"
        assert "written" in await scenario.say(conversation, f"Run: echo learned > {path}; echo written")
        await scenario.settled(conversation)
        assert await _memories(scenario, store) == ["learned\n"]
        assert await condition(scenario.system, conversation.session_id, "MemoryStoreFailed") == {}
        assert "learned" in await scenario.say(conversation, f"Run: cat {path}")

    return play


async def _worker_dies_with_a_new_memory(scenario: Scenario) -> None:
    """The memory is in the sandbox, and the resource says where."""
    store = "memstore_unsynchronised"
    conversation = await scenario.begin_with_store(store)
    path = f"/mnt/memory/{store}/lesson.md"
    once = f"test -e begun || {{ echo learned > {path}; touch begun; sleep 60; }}; echo served"
    await scenario.send(conversation, f"Run: {once}")

    async def written() -> bool:
        running = await sandboxes_of(scenario.system, conversation.session_id, "running")
        return any(each.path("/mnt/session/begun").exists() for each in running)

    await eventually("the memory is written", written)
    await worker_dies(scenario, conversation)
    assert "served" in await conversation.answer()
    await scenario.settled(conversation)
    found = await condition(scenario.system, conversation.session_id, "MemoryStoreFailed")
    kept = re.search(rf"/mnt/session/unsynchronised-memory/\S+/{store}/lesson\.md", found["message"])
    assert kept is not None, found["message"]
    sandbox = await only_sandbox(scenario.system, conversation.session_id)
    assert sandbox.path(kept[0]).read_text() == "learned\n"
    await warned(scenario.system, conversation.session_id, "MemoryStoreFailed")


async def _rolled_over_with_a_new_memory(scenario: Scenario) -> None:
    """What was written before the roll-over is uploaded after it, by new connections."""
    store = "memstore_rolled_over"
    conversation = await scenario.begin_with_store(store)
    path = f"/mnt/memory/{store}/lesson.md"
    await scenario.send(conversation, f"Run: echo learned > {path}; {WAIT}; echo finished")
    await told(scenario.system, conversation.session_id, "SandboxRolledOver")
    assert await _memories(scenario, store) == [], "nothing was uploaded before"
    let_go(await only_sandbox(scenario.system, conversation.session_id))
    assert await conversation.answer() == "finished"
    await scenario.settled(conversation)
    assert await _memories(scenario, store) == ["learned\n"]
    assert await condition(scenario.system, conversation.session_id, "MemoryStoreFailed") == {}


ROWS = [
    *(
        Row(FAMILY, name, play)
        for name, play in (
            ("the list of a store's memories is answered 503", _passes("memories.list")),
            ("an upload of a memory is answered 503", _passes("memories.create")),
        )
    ),
    Row(FAMILY, "the worker dies before a memory is uploaded", _worker_dies_with_a_new_memory, SHORT_LIMITS),
    Row(
        FAMILY,
        "the sandbox is rolled over before a memory is uploaded",
        _rolled_over_with_a_new_memory,
        SHORT_LIFE,
    ),
]
