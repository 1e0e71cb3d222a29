"""An environment that is archived: what its queue then answers is said, and no session is harmed."""

from __future__ import annotations

from ..support.sessions import QUICK, becomes, begin, paused, resource
from ..support.systems import StartSystem
from ..support.waiting import eventually


async def test_queue_that_serves_nobody_is_said_where_sessions_wait(start_system: StartSystem) -> None:
    system = await start_system(operator_settings={**QUICK, "attach_timeout_seconds": "3"})
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: echo one")
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        await becomes(system, session_id, "Idle", status="True")
        before = await resource(system, session_id)
        delivered = await system.anthropic_admin.deliver(
            type="environment.archived", object_id=system.clouds.environment_id
        )
        assert delivered
        body = {"type": "error", "error": {"type": "not_found_error", "message": "Environment not found"}}
        await system.anthropic_admin.add_fault("work.poll", {"status": 404, "body": body}, times=None)

        async def said_about_the_lease() -> bool:
            events = await system.control_plane.kubectl(
                "get", "events", f"--namespace={system.system_namespace}", "--output=name",
                "--field-selector=involvedObject.kind=Lease,reason=EnvironmentUnavailable",
            )  # fmt: skip
            return bool(events.strip())

        await eventually("the Lease has an Event", said_about_the_lease)
        assert (await resource(system, session_id))["metadata"]["uid"] == before["metadata"]["uid"]
        await conversation.send("Run: echo two")
        condition = await becomes(system, session_id, "EnvironmentUnavailable")
        assert "Environment not found" in condition["message"]
        await eventually("its sandbox is not kept running", lambda: paused(system, session_id))

        await system.anthropic_admin.clear_faults()
        assert "two" in await conversation.answer()
