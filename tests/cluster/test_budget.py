"""A session whose budget is used up says so, and goes on when it is raised."""

from __future__ import annotations

import json

from ..support.sessions import QUICK, becomes, begin, paused, resource, resyncs_pass
from ..support.systems import StartSystem
from ..support.waiting import eventually


async def test_a_session_that_reached_its_budget_says_so_and_is_served_again_afterwards(
    start_system: StartSystem,
) -> None:
    system = await start_system(operator_settings=QUICK)
    async with begin(system) as conversation:
        session_id = conversation.session_id
        tool = {"tool": "bash", "input": {"command": "echo kept > file"}}
        await conversation.send(json.dumps({"script": [tool, {"stop": "budget_reached"}]}))
        said = await becomes(system, session_id, "BudgetReached")
        assert "Raise or remove it" in said["message"]
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        await resyncs_pass(system, 3)
        status = (await resource(system, session_id))["status"]
        assert (status["phase"], status["work"]["stopReason"]) == ("Idle", "budget_reached")

        async def told_by_webhook() -> bool:
            event = (await resource(system, session_id))["status"]["lastEvent"]
            return bool(event["type"] == "session.budget_reached")

        await eventually("the webhook has recorded it", told_by_webhook)
        # The simulator's budget is as good as raised: the session runs again.
        assert await conversation.say("Run: cat file") == "kept"
        await becomes(system, session_id, "Idle", status="True")
