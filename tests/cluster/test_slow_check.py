"""Ends whose webhook was lost, found with an API key by one list instead of a question for each session."""

from __future__ import annotations

import httpx
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, becomes, begin, paused, resource
from ..support.systems import StartSystem
from ..support.waiting import eventually


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


async def test_a_question_without_an_answer_changes_nothing(start_system: StartSystem) -> None:
    system = await start_system(
        operator_settings={**QUICK, "end_checks_per_minute": "120", "end_check_seconds": "2"}
    )
    async with begin(system) as conversation:
        await conversation.say("Run: true")
        await becomes(system, conversation.session_id, "Idle", status="True")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        before = await resource(system, conversation.session_id)
        await _asked_in_vain(system, {"status": 500}, times=3)
        after = await resource(system, conversation.session_id)
        assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_sessions_of_an_environment_that_knows_nothing_are_not_taken_for_deleted(
    start_system: StartSystem,
) -> None:
    system = await start_system(
        operator_settings={**QUICK, "end_checks_per_minute": "120", "end_check_seconds": "2"}
    )
    async with begin(system) as conversation:
        await conversation.say("Run: echo kept > /mnt/session/file")
        await becomes(system, conversation.session_id, "Idle", status="True")
        body = {"type": "error", "error": {"type": "not_found_error", "message": "not found"}}
        await system.anthropic_admin.add_fault("work.poll", {"status": 404, "body": body}, times=None)

        async def unavailable() -> bool:
            async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
                metrics = (await client.get(f"{system.operator.probe_url}/metrics")).text
            return "managed_sessions_queue_unavailable 1.0" in metrics

        await eventually("the queue is known to serve nobody", unavailable)
        await _asked_in_vain(system, {"status": 404, "body": body}, times=2)
        await system.anthropic_admin.clear_faults()
        assert "kept" in await conversation.say("Run: cat /mnt/session/file")


async def _asked_in_vain(system: LocalSystem, answer: dict[str, object], times: int) -> None:
    """Have the operator's next questions about a session answered so, and wait until it has asked them."""
    await system.anthropic_admin.clear_ledger()
    await system.anthropic_admin.add_fault("sessions.get", answer, times=times)

    async def asked() -> bool:
        calls = (await system.anthropic_admin.ledger()).calls
        return len([call for call in calls if call["operation"] == "sessions.get"]) > times

    await eventually("the slow check has asked once more than that", asked)
