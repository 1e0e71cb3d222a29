"""More work than sandboxes may run: it waits in the queue, in order, and says where it stands."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack

from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem

from ..support.held import WAIT, let_go
from ..support.sessions import QUICK, becomes, begin, condition, resource
from ..support.systems import StartSystem
from ..support.waiting import eventually

LIMIT = 2
SESSIONS = 8


async def _begin(system: LocalSystem, stack: AsyncExitStack, count: int) -> list[Conversation]:
    return [await stack.enter_async_context(begin(system)) for _ in range(count)]


async def _send_in_order(conversations: list[Conversation], text: str) -> None:
    for conversation in conversations:
        await conversation.send(text)


async def _answers(conversations: list[Conversation]) -> list[str]:
    return await asyncio.gather(*(each.answer(timeout_seconds=150) for each in conversations))


async def _none_runs(system: LocalSystem) -> bool:
    return not await system.e2b_admin.sandboxes("running", "pausing")


async def _first_heartbeat(system: LocalSystem, conversation: Conversation) -> str:
    """When the worker of the newest claim had its first heartbeat, once the operator has written it down."""

    async def written() -> str | None:
        work: dict[str, str] = (await resource(system, conversation.session_id))["status"]["work"]
        return work.get("firstHeartbeatAt")

    return await eventually("the heartbeat is written down", written)


async def _taken_from_the_queue(system: LocalSystem) -> int:
    items, _ = await system.anthropic_admin.work()
    return sum(1 for item in items if item["state"] in ("starting", "active"))


async def test_resumed_and_new_sessions_are_served_in_the_order_of_their_messages(
    start_system: StartSystem,
) -> None:
    system = await start_system(operator_settings={**QUICK, "max_active_sandboxes": str(LIMIT)})
    async with AsyncExitStack() as stack:
        resumed = await _begin(system, stack, SESSIONS // 2)
        await _send_in_order(resumed, "Run: echo first")
        await _answers(resumed)
        await eventually("all sandboxes are paused", lambda: _none_runs(system), seconds=60)
        await system.e2b_admin.clear_ledger()

        order: list[Conversation] = []
        for conversation in resumed:
            # The queue has a new session's item since its creation.
            await conversation.send("Run: sleep 2; echo served")
            (new,) = await _begin(system, stack, 1)
            await new.send("Run: sleep 2; echo served")
            order += [conversation, new]
        answering = asyncio.create_task(_answers(order))
        most_taken, positions = 0, set[str]()
        while not answering.done():
            most_taken = max(most_taken, await _taken_from_the_queue(system))
            said = await condition(system, order[-1].session_id)
            if said.get("reason") == "AwaitingCapacity":
                positions |= set(re.findall(r"Queue position (\d+): all 2 sandbox slots", said["message"]))
        assert all("served" in answer for answer in await answering)
        served = [await _first_heartbeat(system, each) for each in order]

    ranks = {heartbeat: rank for rank, heartbeat in enumerate(sorted(served))}
    moved = [abs(ranks[heartbeat] - number) for number, heartbeat in enumerate(served)]
    assert max(moved) <= LIMIT - 1, f"served in the order {[ranks[each] for each in served]}"
    assert most_taken <= LIMIT, "what waits stays in the queue"
    assert len(positions) >= 2, f"the last one came forward: {positions}"
    ledger = await system.e2b_admin.ledger()
    assert ledger.peak_concurrent <= LIMIT
    assert ledger.events.get("concurrency_limited", 0) == 0


async def test_limit_lowered_at_e2b_slows_the_operator_down_and_all_are_served(
    start_system: StartSystem,
) -> None:
    system = await start_system(operator_settings={**QUICK, "max_active_sandboxes": "4"})
    async with AsyncExitStack() as stack:
        resumed = await _begin(system, stack, 3)
        await _send_in_order(resumed, "Run: echo first")
        await _answers(resumed)
        await eventually("all sandboxes are paused", lambda: _none_runs(system), seconds=60)
        await system.e2b_admin.clear_ledger()

        await system.e2b_admin.change_settings(max_concurrent_sandboxes=1)
        began = time.monotonic()
        order = [*resumed, *await _begin(system, stack, 4)]
        await _send_in_order(order, "Run: sleep 3; echo served")
        answering = asyncio.create_task(_answers(order))
        reasons, named = set[str](), False
        while not answering.done():
            for conversation in order:
                said = await condition(system, conversation.session_id)
                reasons.add(said.get("reason", ""))
                named = named or "E2B currently allows" in said.get("message", "")
        assert all("served" in answer for answer in await answering)

    # Ever more seldom, up to once in six seconds here; a slow machine leaves time for more.
    refusals = max(20.0, (time.monotonic() - began) / 3)
    assert {"SandboxQuotaExceeded", "AwaitingCapacity"} <= reasons
    assert named, "who waits says that it is E2B's limit"
    ledger = await system.e2b_admin.ledger()
    sent = ledger.operations.get("create", 0) + ledger.operations.get("connect", 0)
    assert ledger.peak_concurrent == 1
    assert sent <= len(order) + refusals, f"{sent} creates and resumes for {len(order)} sandboxes"


async def test_lowered_setting_kills_nothing_and_new_sessions_wait(start_system: StartSystem) -> None:
    system = await start_system(operator_settings={**QUICK, "max_active_sandboxes": "2"})
    async with AsyncExitStack() as stack:
        running = await _begin(system, stack, 2)
        await _send_in_order(running, f"Run: {WAIT}; echo went on")
        for conversation in running:
            await becomes(system, conversation.session_id, "Running", status="True")
        await system.operator.restart(max_active_sandboxes="1")
        (late,) = await _begin(system, stack, 1)
        await late.send("Run: echo late")
        await becomes(system, late.session_id, "AwaitingCapacity")
        for sandbox in await system.e2b_admin.sandboxes("running"):
            let_go(sandbox)
        assert all("went on" in answer for answer in await _answers(running))
        assert "late" in await late.answer()
    assert (await system.e2b_admin.ledger()).peak_concurrent == 2
