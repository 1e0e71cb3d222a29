"""Ends whose webhook was lost, found with an API key by one list instead of a question for each session."""

from __future__ import annotations

from .sessions import QUICK, becomes, begin, resource
from .systems import StartSystem
from .waiting import eventually


async def test_with_an_api_key_only_sessions_that_the_list_lacks_are_asked_about(
    start_system: StartSystem,
) -> None:
    settings = {**QUICK, "end_checks_per_minute": "120", "end_check_seconds": "3"}
    system = await start_system(operator_settings=settings)
    system.operator.set_credential("anthropic-api-key", system.api_key)
    async with begin(system) as archived, begin(system) as deleted, begin(system) as living:
        for conversation in (archived, deleted, living):
            await conversation.say("Run: true")
            await becomes(system, conversation.session_id, "Idle", status="True")
        await system.anthropic_admin.hold_webhooks()
        await system.anthropic_admin.clear_ledger()
        await system.user.beta.sessions.archive(archived.session_id)
        await system.user.beta.sessions.delete(deleted.session_id)

        async def gone() -> bool:
            return not await resource(system, deleted.session_id)

        await becomes(system, archived.session_id, "SessionEnded")
        await eventually("the deleted session's resource is gone", gone)
        calls = (await system.anthropic_admin.ledger()).calls
        asked = {call["session_id"] for call in calls if call["operation"] == "sessions.get"}
        assert asked == {archived.session_id, deleted.session_id}
        assert any(call["operation"] == "sessions.list" for call in calls)
        await becomes(system, living.session_id, "Idle", status="True")
