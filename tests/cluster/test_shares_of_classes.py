"""Classes that share a running system's slots: a flood, a guarantee, a maximum."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.classes import apply_class, class_becomes, class_known, class_status, delete_classes
from ..support.held import WAIT, let_go
from ..support.sessions import QUICK, becomes, begin, condition, resource, sandboxes_of
from ..support.systems import local_system
from ..support.waiting import eventually

SLOTS = 2
FLOOD = 8
ANSWER_SECONDS = 150


@pytest.fixture(scope="module")
async def shared(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    settings = {**QUICK, "max_active_sandboxes": str(SLOTS), "prewarm_capacity_percent": "0"}
    async with local_system(control_plane, operator_settings=settings) as running:
        yield running


@pytest.fixture
async def system(shared: LocalSystem) -> AsyncIterator[LocalSystem]:
    yield shared
    await delete_classes(shared)


async def _classes(system: LocalSystem, **limits: dict[str, int]) -> dict[str, str]:
    """Make a class with these limits for a new agent each. Return the agents by class."""
    agents = {}
    for name, given in limits.items():
        agents[name] = await system.anthropic_admin.add_agent()
        await apply_class(system, name, {"selector": {"agentIDs": [agents[name]]}, "limits": given})
    for name in limits:
        await class_known(system, name)
    return agents


async def _begin(
    system: LocalSystem, stack: AsyncExitStack, agent_id: str, text: str, count: int = 1
) -> list[Conversation]:
    begun = []
    for _ in range(count):
        conversation = await stack.enter_async_context(begin(system, agent_id))
        await conversation.send(text)
        begun.append(conversation)
    return begun


async def _runs(system: LocalSystem, conversation: Conversation) -> bool:
    return bool(await sandboxes_of(system, conversation.session_id, "running"))


async def _running(system: LocalSystem, conversations: list[Conversation]) -> list[Conversation]:
    return [each for each in conversations if await _runs(system, each)]


async def _fill(system: LocalSystem, flood: list[Conversation]) -> list[Conversation]:
    """Wait until the flood has all slots and the rest of it waits. Return those with a slot."""

    async def all_slots() -> list[Conversation] | None:
        running = await _running(system, flood)
        return running if len(running) == SLOTS else None

    running = await eventually("the flood has all slots", all_slots)
    for conversation in running:
        await becomes(system, conversation.session_id, "Running", status="True")
    return running


async def _go_on(system: LocalSystem, conversation: Conversation) -> None:
    """End the conversation's turn."""
    (sandbox,) = await sandboxes_of(system, conversation.session_id, "running")
    let_go(sandbox)


async def _all_answered(system: LocalSystem, conversations: list[Conversation]) -> None:
    """Let every turn end, and wait for all answers."""
    answers = asyncio.gather(*(each.answer(timeout_seconds=ANSWER_SECONDS) for each in conversations))

    async def answered() -> bool:
        for conversation in conversations:
            for sandbox in await sandboxes_of(system, conversation.session_id, "running"):
                let_go(sandbox)
        return answers.done()

    await eventually("all are answered", answered, seconds=ANSWER_SECONDS + 10)
    await answers


async def _first_heartbeat(system: LocalSystem, conversation: Conversation) -> str:
    async def written() -> str | None:
        work: dict[str, str] = (await resource(system, conversation.session_id))["status"]["work"]
        return work.get("firstHeartbeatAt")

    return await eventually("the heartbeat is written down", written)


async def test_the_next_slot_in_a_flood_goes_to_the_quiet_class_whose_work_came_last(
    system: LocalSystem,
) -> None:
    agents = await _classes(system, flood={"weight": 5}, quiet={})
    async with AsyncExitStack() as stack:
        flood = await _begin(system, stack, agents["flood"], f"Run: {WAIT}; echo served", FLOOD)
        first, _ = await _fill(system, flood)
        (quiet,) = await _begin(system, stack, agents["quiet"], f"Run: {WAIT}; echo served")
        await becomes(system, quiet.session_id, "AwaitingCapacity")
        said = await condition(system, quiet.session_id)
        assert "in class quiet" in said["message"] or "Queued" in said["message"]
        await _go_on(system, first)
        await eventually("the quiet class has the slot", lambda: _runs(system, quiet))
        assert len(await _running(system, flood)) == SLOTS - 1
        await _all_answered(system, [*flood, quiet])
        served = sorted([await _first_heartbeat(system, each) for each in flood])
        assert served[SLOTS - 1] < await _first_heartbeat(system, quiet) < served[SLOTS]
    assert (await system.e2b_admin.ledger()).peak_concurrent <= SLOTS


async def test_guaranteed_slots_are_lent_and_come_back(system: LocalSystem) -> None:
    agents = await _classes(system, flood={"weight": 100}, owner={"guaranteedSlots": SLOTS})
    async with AsyncExitStack() as stack:
        flood = await _begin(system, stack, agents["flood"], f"Run: {WAIT}; echo served", SLOTS + 2)
        running = await _fill(system, flood)
        owners = await _begin(system, stack, agents["owner"], f"Run: {WAIT}; echo served", SLOTS)
        for number, conversation in enumerate(running, 1):
            for owner in owners:
                if not await _runs(system, owner):
                    await becomes(system, owner.session_id, "AwaitingCapacity")
            await _go_on(system, conversation)

            async def came_back(number: int = number) -> bool:
                return len(await _running(system, owners)) == number

            await eventually(f"{number} guaranteed slots are back", came_back)
        assert await _running(system, flood) == [], "the class has all that it is guaranteed"
        await _all_answered(system, [*flood, *owners])


async def test_a_class_at_its_maximum_leaves_the_other_slots_to_others(system: LocalSystem) -> None:
    agents = await _classes(system, small={"maxActiveSandboxes": 1})
    async with AsyncExitStack() as stack:
        small = await _begin(system, stack, agents["small"], f"Run: {WAIT}; echo served", SLOTS + 2)

        async def one_runs() -> bool:
            return len(await _running(system, small)) == 1

        await eventually("one of the class runs", one_runs)
        (other,) = await _begin(system, stack, system.agent_id, "Run: echo other")
        assert "other" in await other.answer(timeout_seconds=ANSWER_SECONDS)
        assert await one_runs()

        async def says_why() -> bool:
            said = [await condition(system, each.session_id) for each in small]
            return any("maxActiveSandboxes" in each.get("message", "") for each in said)

        await eventually("a session that waits says that its class is full", says_why)

        async def counts_them() -> bool:
            return (await class_status(system, "small")).get("waiting") == SLOTS + 1

        await eventually("its class counts those that wait for their first slot", counts_them)
        await _all_answered(system, small)


async def test_sessions_that_wait_in_a_full_class_get_slots_once_it_is_deleted(system: LocalSystem) -> None:
    agents = await _classes(system, small={"maxActiveSandboxes": 1})
    async with AsyncExitStack() as stack:
        small = await _begin(system, stack, agents["small"], f"Run: {WAIT}; echo served", SLOTS + 2)

        async def others_wait() -> bool:
            return (await class_status(system, "small")).get("waiting") == SLOTS + 1

        await eventually("one runs, and the others wait", others_wait)
        assert len(await _running(system, small)) == 1
        await delete_classes(system)
        await _fill(system, small)
        await _all_answered(system, small)


async def test_classes_that_guarantee_more_than_there_is_say_so(system: LocalSystem) -> None:
    await _classes(system, one={"guaranteedSlots": SLOTS}, two={"guaranteedSlots": SLOTS})
    for name in ("one", "two"):
        status = await class_becomes(system, name, "GuaranteesReduced")
        (ready,) = [each for each in status["conditions"] if each["type"] == "Ready"]
        assert f"This class is guaranteed 1 instead of {SLOTS}" in ready["message"]
        assert ready["status"] == "True"
