"""Stub workers, which `benchmarks/at_once.py` uses, are served as real ones are."""

from __future__ import annotations

from ..support.sessions import TOTALS_OF_TROUBLE, begin
from ..support.systems import StartSystem
from ..support.waiting import eventually


async def test_a_stub_worker_serves_a_cold_turn_and_one_from_paused(start_system: StartSystem) -> None:
    system = await start_system(e2b_settings={"stub_workers": True})

    async def paused() -> bool:
        return [each.state for each in await system.e2b_admin.sandboxes()] == ["paused"]

    async with begin(system) as conversation:
        assert await conversation.say("Run: echo not executed") == "ok"
        await eventually("the sandbox is paused", paused)
        assert await conversation.say("Run: echo neither") == "ok"
        await eventually("the sandbox is paused again", paused)

    (sandbox,) = await system.e2b_admin.sandboxes()
    ledger = await system.anthropic_admin.ledger(calls=False)
    assert (sandbox.resumes, sandbox.init_pid) == (1, 0)
    assert (ledger.totals["leases"], ledger.totals["work_stopped"]) == (2, 2)
    assert {name: ledger.totals[name] for name in TOTALS_OF_TROUBLE if ledger.totals[name]} == {}


async def test_the_next_operator_finds_the_stub_worker_of_the_one_before(start_system: StartSystem) -> None:
    system = await start_system(
        e2b_settings={"stub_workers": True}, operator_settings={"max_idle_seconds": "8"}
    )
    async with begin(system) as conversation:
        assert await conversation.say("Run: true") == "ok"
        await system.operator.kill()
        await system.operator.start()

        async def paused() -> bool:
            return [each.state for each in await system.e2b_admin.sandboxes()] == ["paused"]

        await eventually("the sandbox is paused by the next operator", paused)
    ledger = await system.anthropic_admin.ledger(calls=False)
    assert ledger.totals["leases"] == 1
