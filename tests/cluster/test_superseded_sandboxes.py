"""A server that ignores the idempotency key while its listing lags makes two sandboxes: one serves."""

from __future__ import annotations

from datetime import datetime, timedelta

from ..support.sessions import QUICK, begin, paused, sandboxes_of
from ..support.systems import StartSystem
from ..support.waiting import eventually

LAG_SECONDS = 8.0
"""Longer than the second create takes to come, on a busy machine too."""


async def test_second_sandbox_gets_no_worker_and_is_gone_within_a_resync(start_system: StartSystem) -> None:
    system = await start_system(
        operator_settings={**QUICK, "resync_interval_seconds": "6"},
        e2b_settings={"idempotency_enabled": False, "list_lag_seconds": LAG_SECONDS},
    )
    await system.e2b_admin.add_fault("create", "drop_after_commit")
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: echo one > /mnt/session/kept")

        async def one_left() -> bool:
            sandboxes = await sandboxes_of(system, session_id)
            return len(sandboxes) == 2 and sum(each.state == "killed" for each in sandboxes) == 1

        await eventually("the second sandbox is killed", one_left, seconds=60)
        await eventually("the one that serves is paused", lambda: paused(system, session_id))
        assert "one" in await conversation.say("Run: cat /mnt/session/kept")
        surplus, serving = sorted(await sandboxes_of(system, session_id), key=lambda each: each.state)
        assert (surplus.state, surplus.kill_reason) == ("killed", "request")
        assert not (await system.e2b_admin.ledger(operation="process_start", sandbox_id=surplus.id)).calls
        assert (await system.e2b_admin.ledger(operation="process_start", sandbox_id=serving.id)).calls

        assert surplus.killed_at is not None
        visible = surplus.created_at + timedelta(seconds=LAG_SECONDS)
        lists = [
            datetime.fromisoformat(call["at"])
            for call in (await system.e2b_admin.ledger(operation="list")).calls
        ]
        assert sum(visible < at < surplus.killed_at for at in lists) == 1, "the first list that shows it"
