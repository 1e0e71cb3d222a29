"""An operator started with many sessions at rest; `benchmarks/at_rest.py` measures the time."""

from __future__ import annotations

import pytest
from managed_session_devkit.system.settled_sessions import add_settled_sessions, restart_operator

from ..support.sessions import QUICK, becomes, begin, paused
from ..support.systems import StartSystem
from ..support.waiting import eventually

pytestmark = pytest.mark.alone

SESSIONS = 300


async def test_operator_that_starts_with_many_settled_sessions_writes_none_of_them(
    start_system: StartSystem,
) -> None:
    system = await start_system(operator_settings=QUICK)
    async with begin(system) as conversation:
        await conversation.say("Run: true")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        await becomes(system, conversation.session_id, "Idle", status="True")
        await system.operator.process.stop()
        await add_settled_sessions(system, conversation.session_id, SESSIONS - 1)
        restart = await restart_operator(system, timeout_seconds=200)
        assert restart.written == []
        assert set(restart.e2b_calls) == {"list"}
        # The first long poll may not be over yet.
        calls = set(restart.anthropic_calls)
        # The slow check counts the queue's pollers.
        assert {"work.list"} <= calls <= {"work.poll", "work.list", "work.stats"}
        assert len(await system.e2b_admin.sandboxes("paused")) == SESSIONS
