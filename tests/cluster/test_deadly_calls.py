"""A tool call that ends its worker is run a bounded number of times, counted across leases and operators."""

from __future__ import annotations

import re
from typing import Any

from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, becomes, begin, condition, resource, sandboxes_of, warned
from ..support.systems import StartSystem
from ..support.waiting import eventually

DEADLY = "Run: echo x >> /mnt/session/runs; kill -9 $(pgrep -x session-worker); sleep 60"


async def deaths_counted(system: LocalSystem, session_id: str, deaths: int) -> dict[str, Any]:
    """Wait until the resource has counted so many workers that ended in one call; gives the entry."""

    async def look() -> dict[str, Any] | None:
        found = (await resource(system, session_id)).get("status", {}).get("callDeaths", [])
        return next((each for each in found if each["deaths"] >= deaths), None)

    entry: dict[str, Any] = await eventually(f"{deaths} deaths are counted", look, seconds=60)
    return entry


async def next_worker(system: LocalSystem, session_id: str) -> None:
    """End the lease that the dead worker has left, so that the queue offers the work again."""
    await system.anthropic_admin.lapse_lease(session_id)


async def runs(system: LocalSystem, session_id: str) -> int:
    """How often the deadly command has begun in the session's only sandbox."""
    (sandbox,) = await sandboxes_of(system, session_id)
    return sandbox.path("/mnt/session/runs").read_text().count("x")


async def test_a_call_that_kills_its_worker_is_run_three_times_and_then_the_agent_hears_why(
    start_system: StartSystem,
) -> None:
    system = await start_system(operator_settings=QUICK)
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send(DEADLY)
        entry = await deaths_counted(system, session_id, 1)
        assert (entry["tool"], entry["cause"]) == ("bash", "killed (signal 9)")
        waits = await becomes(system, session_id, "AwaitingLease")
        assert "Killed" in waits["message"]
        assert (await resource(system, session_id))["status"]["phase"] != "Idle", "its turn is not over"
        fatal = await condition(system, session_id, "ToolCallFatal")
        assert (fatal["status"], fatal["reason"]) == ("True", "WorkerEndedInCall")
        assert re.search(
            r"bash \(\w+\) ended its worker \(1 of at most 3 times\): killed \(signal 9\)", fatal["message"]
        )

        for deaths in (2, 3):
            await next_worker(system, session_id)
            await deaths_counted(system, session_id, deaths)
        await next_worker(system, session_id)
        answer = await conversation.answer()
        assert "ended the worker 3 times: killed (signal 9)" in answer
        assert await runs(system, session_id) == 3
        assert "on" in await conversation.say("Run: echo on")

        async def over() -> bool:
            status = (await resource(system, session_id))["status"]
            fatal = await condition(system, session_id, "ToolCallFatal")
            return "callDeaths" not in status and fatal["status"] == "False"

        await eventually("the condition is over", over)
        await warned(system, session_id, "WorkerEndedInCall")
        await warned(system, session_id, "ToolCallGivenUp")


async def test_deaths_are_counted_across_operators_and_by_the_setting(start_system: StartSystem) -> None:
    system = await start_system(operator_settings={**QUICK, "tool_call_attempts": "2"})
    async with begin(system) as conversation:
        await conversation.send(DEADLY)
        await deaths_counted(system, conversation.session_id, 1)
        await system.operator.process.stop(kill=True)
        await system.start_operator()
        await next_worker(system, conversation.session_id)
        await deaths_counted(system, conversation.session_id, 2)
        await next_worker(system, conversation.session_id)
        assert "ended the worker 2 times" in await conversation.answer()
        assert await runs(system, conversation.session_id) == 2


async def test_deaths_are_counted_across_sandboxes(start_system: StartSystem) -> None:
    """Each sandbox vanishes while the call runs: nothing in it is left to tell."""
    system = await start_system(operator_settings={**QUICK, "tool_call_attempts": "2"})
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send("Run: touch /mnt/session/begun; sleep 100")
        for deaths in (1, 2):

            async def running() -> str | None:
                # A death is that of a worker whose heartbeat was written down.
                work = (await resource(system, session_id)).get("status", {}).get("work", {})
                if "firstHeartbeatAt" not in work:
                    return None
                for sandbox in await sandboxes_of(system, session_id, "running"):
                    if any("sleep 100" in process.command for process in sandbox.processes):
                        return sandbox.id
                return None

            await system.e2b_admin.vanish(await eventually("the call runs", running))
            await deaths_counted(system, session_id, deaths)
            await next_worker(system, session_id)
        answer = await conversation.answer()
        assert "ended the worker 2 times: its sandbox vanished" in answer
        assert len(await sandboxes_of(system, session_id)) == 3
