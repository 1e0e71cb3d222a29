"""Anthropic's deliveries: lost, repeated, late, in another order, of other environments and of no session."""

from __future__ import annotations

from typing import Any

from managed_session_cli.conversation import Conversation

from ...support.arrangements import IMPATIENT
from ...support.sessions import becomes, resource, resyncs_pass, sandboxes_of
from ...support.waiting import eventually
from ..anthropic_side import (
    Action,
    Fault,
    Play,
    is_gone,
    polls_fail,
    tool_runs,
    waits_for_tool,
    with_work_settings,
    work_is,
)
from ..row import Outcome, Row
from ..scenario import Scenario

FAMILY = "anthropic webhooks"

RUN = "session.status_run_started"


def _delivered(action: Action) -> Play:
    """All deliveries of two turns meet this."""

    async def play(scenario: Scenario) -> None:
        await Fault("webhook.deliver", action, times=None).inject(scenario)
        conversation = await scenario.begin()
        assert "kept" in await scenario.say(conversation, "Run: echo kept | tee file")
        await scenario.settled(conversation)
        assert "kept" in await scenario.say(conversation, "Run: cat file")

    return play


async def _deliveries(scenario: Scenario, conversation: Conversation) -> list[dict[str, Any]]:
    return (await scenario.system.anthropic_admin.session(conversation.session_id)).deliveries


async def _delivered_at(scenario: Scenario, conversation: Conversation, event: dict[str, Any]) -> None:
    async def taken() -> bool:
        attempts = await _deliveries(scenario, conversation)
        return any(each["event_id"] == event["id"] and each["status"] == 204 for each in attempts)

    await eventually("the event is taken", taken)


async def _reordered(scenario: Scenario) -> None:
    """All events of a session's life arrive after its end, the last ones first."""
    admin = scenario.system.anthropic_admin
    await admin.hold_webhooks()
    try:
        conversation = await scenario.begin()
        assert "one" in await scenario.say(conversation, "Run: echo one")
        await scenario.settled(conversation)
        assert "two" in await scenario.say(conversation, "Run: echo two")
        await scenario.settled(conversation)
        await work_is(scenario, conversation, "stopped")
        await scenario.system.user.beta.sessions.archive(conversation.session_id)
    finally:
        assert await admin.release_webhooks("lifo")
    await becomes(scenario.system, conversation.session_id, "SessionEnded")


async def _late(scenario: Scenario) -> None:
    """The events of a turn arrive after it: nothing is resumed for them."""
    admin = scenario.system.anthropic_admin
    await admin.hold_webhooks()
    try:
        conversation = await scenario.begin()
        assert "one" in await scenario.say(conversation, "Run: echo one")
        await scenario.settled(conversation)
        (sandbox,) = await sandboxes_of(scenario.system, conversation.session_id)
    finally:
        await admin.release_webhooks("shuffle")

    async def delivered() -> bool:
        taken = [each for each in await _deliveries(scenario, conversation) if each["status"] == 204]
        return any(each["type"] == RUN for each in taken)

    await eventually("the event of its run arrives", delivered)
    await resyncs_pass(scenario.system, 2)
    (after,) = await sandboxes_of(scenario.system, conversation.session_id)
    assert (after.state, after.resumes) == ("paused", sandbox.resumes)
    assert "two" in await scenario.say(conversation, "Run: echo two")


async def _run_without_work(scenario: Scenario) -> None:
    """A run is told that brings no work: nothing runs for it for long."""
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee file")
    await scenario.settled(conversation)
    event = await scenario.system.anthropic_admin.deliver(type=RUN, object_id=conversation.session_id)
    await _delivered_at(scenario, conversation, event)

    await scenario.settled(conversation)
    assert "kept" in await scenario.say(conversation, "Run: cat file")


async def _last_event(scenario: Scenario, conversation: Conversation) -> dict[str, Any] | None:
    status = (await resource(scenario.system, conversation.session_id)).get("status", {})
    event: dict[str, Any] | None = status.get("lastEvent")
    return event


async def _old_run_again(scenario: Scenario) -> None:
    """The event of a finished turn is delivered once more: nothing is resumed."""
    conversation = await scenario.begin()
    assert "one" in await scenario.say(conversation, "Run: echo one")
    await scenario.settled(conversation)
    told = await eventually("its run is noted", lambda: _last_event(scenario, conversation))
    event = await scenario.system.anthropic_admin.deliver(
        type=RUN, object_id=conversation.session_id, id=told["id"], created_at=told["createdAt"], copies=3
    )
    await _delivered_at(scenario, conversation, event)
    await scenario.settled(conversation)
    (sandbox,) = await sandboxes_of(scenario.system, conversation.session_id)
    assert sandbox.resumes == 0


async def _of_another_environment(scenario: Scenario) -> None:
    """A run of a session of another environment is told: what it made is removed, nothing is paid for."""
    admin, user = scenario.system.anthropic_admin, scenario.system.user
    environment_id, _ = await admin.add_environment()
    foreign = await user.beta.sessions.create(agent=scenario.system.agent_id, environment_id=environment_id)
    event = await admin.deliver(type=RUN, object_id=foreign.id, copies=2)
    await _of_nobody(scenario, foreign.id, event)


async def _of_a_deleted_session(scenario: Scenario) -> None:
    """A run of a session is told that has been deleted."""
    admin, user = scenario.system.anthropic_admin, scenario.system.user
    session = await user.beta.sessions.create(
        agent=scenario.system.agent_id, environment_id=scenario.system.clouds.environment_id
    )
    await user.beta.sessions.delete(session.id)
    event = await admin.deliver(type=RUN, object_id=session.id)
    await _of_nobody(scenario, session.id, event)


async def _of_nobody(scenario: Scenario, session_id: str, event: dict[str, Any]) -> None:
    async def taken() -> bool:
        deliveries = (await scenario.system.anthropic_admin.session(session_id)).deliveries
        return any(each["event_id"] == event["id"] and each["status"] == 204 for each in deliveries)

    async def removed() -> bool:
        return not await resource(scenario.system, session_id)

    await eventually("the event is taken", taken)
    await eventually("its resource is removed", removed)
    assert not await sandboxes_of(scenario.system, session_id)
    conversation = await scenario.begin()
    assert "served" in await scenario.say(conversation, "Run: echo served")


async def _run_told_after_deletion(scenario: Scenario) -> None:
    """The session is deleted, and the event of its last run arrives after that of its deletion."""
    admin = scenario.system.anthropic_admin
    conversation = await scenario.begin()
    assert "done" in await scenario.say(conversation, "Run: echo done")
    await scenario.settled(conversation)
    await scenario.system.user.beta.sessions.delete(conversation.session_id)
    await is_gone(scenario, conversation)
    event = await admin.deliver(type=RUN, object_id=conversation.session_id)
    await _delivered_at(scenario, conversation, event)
    await is_gone(scenario, conversation)


async def _told_before_the_queue(scenario: Scenario) -> None:
    """The webhook tells of a run long before its work can be had: a sandbox is made, and paused again."""
    await polls_fail(scenario)
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: echo served")
    await waits_for_tool(scenario, conversation)

    async def made() -> bool:
        return bool(await sandboxes_of(scenario.system, conversation.session_id))

    await eventually("the sandbox is made", made)
    await scenario.settled(conversation)
    await scenario.calm()
    assert "served" in await conversation.answer()


async def _during_a_turn(scenario: Scenario) -> None:
    """The event of a run comes again and again while its worker runs."""
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: sleep 6.47; echo served")
    await tool_runs(scenario, conversation, "sleep 6.47")
    event: dict[str, Any] = {}
    for _ in range(3):
        event = await scenario.system.anthropic_admin.deliver(type=RUN, object_id=conversation.session_id)
    await _delivered_at(scenario, conversation, event)
    assert "served" in await conversation.answer()


ROWS = [
    Row(FAMILY, "all webhooks are lost", _delivered({"action": "drop"})),
    Row(FAMILY, "all webhooks come three times", _delivered({"action": "duplicate", "copies": 3})),
    Row(FAMILY, "all webhooks come a second late", _delivered({"action": "delay", "seconds": 1})),
    Row(FAMILY, "webhooks come in reverse order after the session's end", _reordered),
    Row(FAMILY, "a turn's webhooks come after it", _late, IMPATIENT),
    Row(FAMILY, "a run is told that brings no work", _run_without_work, IMPATIENT),
    Row(FAMILY, "an old run is told again", _old_run_again),
    Row(FAMILY, "runs are told while the worker runs", _during_a_turn, IMPATIENT),
    Row(FAMILY, "a run is told long before its work comes", _told_before_the_queue, IMPATIENT),
    Row(FAMILY, "a run of another environment is told", _of_another_environment),
    Row(
        FAMILY,
        "a run of a deleted session is told",
        with_work_settings(_of_a_deleted_session, enqueue_at_creation=False),
    ),
    Row(
        FAMILY,
        "a run is told after its session's deletion",
        _run_told_after_deletion,
        outcome=Outcome(gone=True),
    ),
]
