"""A workflow's pauses: the session goes idle and runs again seconds later, many times."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, TOTALS_OF_TROUBLE, begin, paused, resource, sandboxes_of
from ..support.systems import StartSystem
from ..support.waiting import eventually


async def play(conversation: Conversation, *, pauses: int, seconds: float) -> str:
    """A run with so many pauses of that length, each followed by a tool call; the answer counts the calls."""
    call = {"tool": "bash", "input": {"command": "echo run >> runs"}}
    steps: list[dict[str, Any]] = [call]
    for _ in range(pauses):
        steps += [{"pause_ms": seconds * 1000}, call]
    count = {"tool": "bash", "input": {"command": "wc -l < runs"}}
    await conversation.send(json.dumps({"script": [*steps, count, {"say": "{result} runs"}]}))
    return await conversation.answer(timeout_seconds=60 + pauses * (seconds + 10))


async def calls(system: LocalSystem, operation: str) -> int:
    return len((await system.e2b_admin.ledger(operation=operation)).calls)


@pytest.mark.parametrize(
    ("pauses", "seconds", "waits", "rests"),
    [
        pytest.param(20, 0.6, 6, 1, id="shorter than the worker waits"),
        # The first two are not known to be the first of many.
        pytest.param(8, 2.8, 2, 4, id="a little longer than the worker waits"),
    ],
)
async def test_a_workflows_pauses_lose_nothing_and_pause_the_sandbox_a_few_times_at_most(
    start_system: StartSystem, pauses: int, seconds: float, waits: int, rests: int
) -> None:
    system = await start_system(operator_settings={**QUICK, "max_idle_seconds": str(waits)})
    async with begin(system) as conversation:
        session_id = conversation.session_id
        assert await play(conversation, pauses=pauses, seconds=seconds) == f"{pauses + 1} runs"
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        report = await system.anthropic_admin.session(session_id)
        assert len(await sandboxes_of(system, session_id)) == 1
        assert await calls(system, "pause") <= rests
        assert await calls(system, "connect") < rests
        assert report.counts["leases"] <= rests
        assert not {name: report.counts[name] for name in TOTALS_OF_TROUBLE if report.counts[name]}


async def test_a_session_that_mostly_comes_back_late_is_billed_for_short_waits(
    start_system: StartSystem,
) -> None:
    longest, pauses = 5, 2
    waits = {"max_idle_seconds": str(longest), "min_idle_seconds": "1"}
    system = await start_system(operator_settings={**QUICK, **waits})
    async with begin(system) as slow, begin(system) as quick:
        await asyncio.gather(
            play(slow, pauses=pauses, seconds=2 * longest + 8), play(quick, pauses=pauses, seconds=1.5)
        )
        for each in (slow, quick):
            await eventually("the sandbox is paused", partial(paused, system, each.session_id))
        balances = [
            (await resource(system, each.session_id))["status"]["work"]["returnBalance"]
            for each in (slow, quick)
        ]
        assert balances == [-1, pauses]
        [served_late], [served_soon] = [await sandboxes_of(system, each.session_id) for each in (slow, quick)]
        # Long waits alone would take longer, without the turns' work.
        assert longest < served_late.billed_seconds < longest * (pauses + 1)
        pauses_of_each = [
            len((await system.e2b_admin.ledger(operation="pause", sandbox_id=each.id)).calls)
            for each in (served_late, served_soon)
        ]
        assert pauses_of_each == [pauses + 1, 1]


async def test_a_session_that_rests_longer_costs_one_waiting_time_a_turn(start_system: StartSystem) -> None:
    system = await start_system(operator_settings=QUICK)
    async with begin(system) as conversation:
        assert await play(conversation, pauses=2, seconds=8) == "3 runs"
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        assert await calls(system, "pause") == 3
        assert "quickReturns" not in (await resource(system, conversation.session_id))["status"]["work"]
