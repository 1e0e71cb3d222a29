"""Fifty sessions at once, two turns each."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from managed_session_api import names
from managed_session_cli.conversation import Conversation

from ..support.held import HOLD, holding, let_all_go
from ..support.sessions import TOTALS_OF_TROUBLE, begin, refused_calls
from ..support.systems import StartSystem
from ..support.waiting import eventually

pytestmark = pytest.mark.alone

SESSIONS = 50


@pytest.mark.timeout(600)
async def test_fifty_sessions_at_once_are_all_answered_twice_each_in_its_own_sandbox(
    start_system: StartSystem,
) -> None:
    system = await start_system(
        operator_settings={
            "max_active_sandboxes": "60",
            "prewarm_capacity_percent": "100",
            "sandbox_creation_rate": "100",
            "sandbox_creation_burst": "100",
            # A leader that loses its Lease takes up all workers' events anew: more starts of processes.
            "lease_duration_seconds": "60",
        },
        e2b_settings={"max_concurrent_sandboxes": 60},
    )

    def message(number: int, conversation: Conversation) -> str:
        mark = f"cat /mnt/session/mark 2>/dev/null; echo {conversation.session_id} >> /mnt/session/mark"
        return f"{mark}; echo turn {number}"

    async with AsyncExitStack() as stack:
        conversations = await asyncio.gather(
            *(stack.enter_async_context(begin(system)) for _ in range(SESSIONS))
        )
        await asyncio.gather(*(each.send(f"Run: {HOLD}; {message(1, each)}") for each in conversations))

        async def all_run() -> bool:
            return await holding(system) == SESSIONS

        await eventually("all turns run at one time", all_run, seconds=90)
        await let_all_go(system)
        first = await asyncio.gather(*(each.answer(timeout_seconds=120) for each in conversations))
        assert all("turn 1" in answer for answer in first)

        async def all_paused() -> bool:
            return len(await system.e2b_admin.sandboxes("paused")) == SESSIONS

        async def all_pauses_written_down() -> bool:
            states = "jsonpath={.items[*].status.sandbox.state}"
            found = (await system.kubectl("get", names.PLURAL, f"--output={states}")).split()
            return found == ["Paused"] * SESSIONS

        assert (await system.e2b_admin.ledger()).peak_concurrent == SESSIONS
        await eventually("all sandboxes are paused", all_paused, seconds=60)
        # A pause that the operator did not live to write down would be sent again, and E2B would answer 409.
        await eventually("all pauses are written down", all_pauses_written_down, seconds=60)
        await system.operator.restart()
        second = await asyncio.gather(
            *(each.say(f"Run: {message(2, each)}", timeout_seconds=120) for each in conversations)
        )
        for conversation, answer in zip(conversations, second, strict=True):
            assert answer.count("sesn_") == 1, "it sees what its first turn left, and nothing else"
            assert conversation.session_id in answer
        await eventually("all sandboxes are paused", all_paused, seconds=60)

    clouds = await system.e2b_admin.ledger()
    assert clouds.operations["create"] == SESSIONS
    assert clouds.peak_concurrent == SESSIONS
    assert clouds.operations["process_start"] == 2 * SESSIONS
    assert refused_calls(clouds) == {}, "E2B had nothing to refuse"
    ledger = await system.anthropic_admin.ledger(calls=False)
    assert ledger.totals["turns_answered"] == ledger.totals["messages"] == 2 * SESSIONS
    for clean in TOTALS_OF_TROUBLE:
        assert ledger.totals[clean] == 0, clean
    _, stranded = await system.anthropic_admin.work()
    assert stranded == []

    assert await system.delete_sessions(timeout_seconds=120)
    assert {sandbox.state for sandbox in await system.e2b_admin.sandboxes()} == {"killed"}
