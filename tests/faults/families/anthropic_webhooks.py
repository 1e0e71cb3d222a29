"""Anthropic's deliveries: lost, repeated, late, in another order, of other environments and of no session."""

from __future__ import annotations

from typing import Any

from managed_session_local.conversation import Conversation

from ...cluster.sessions import becomes, resource, sandboxes_of
from ...cluster.waiting import eventually
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
from ..arrangements import IMPATIENT
from ..row import Outcome, Row
from ..scene import Scene

FAMILY = "anthropic webhooks"

RUN = "session.status_run_started"


def _delivered(action: Action) -> Play:
    """All deliveries of two turns meet this."""

    async def play(scene: Scene) -> None:
        await Fault("webhook.deliver", action, times=None).inject(scene)
        conversation = await scene.begin()
        assert "kept" in await scene.say(conversation, "Run: echo kept | tee file")
        await scene.settled(conversation)
        assert "kept" in await scene.say(conversation, "Run: cat file")

    return play


async def _deliveries(scene: Scene, conversation: Conversation) -> list[dict[str, Any]]:
    return (await scene.system.anthropic_admin.session(conversation.session_id)).deliveries


async def _delivered_at(scene: Scene, conversation: Conversation, event: dict[str, Any]) -> None:
    async def taken() -> bool:
        attempts = await _deliveries(scene, conversation)
        return any(each["event_id"] == event["id"] and each["status"] == 204 for each in attempts)

    await eventually("the event is taken", taken)


async def _reordered(scene: Scene) -> None:
    """All events of a session's life arrive after its end, the last ones first."""
    admin = scene.system.anthropic_admin
    await admin.hold_webhooks()
    try:
        conversation = await scene.begin()
        assert "one" in await scene.say(conversation, "Run: echo one")
        await scene.settled(conversation)
        assert "two" in await scene.say(conversation, "Run: echo two")
        await scene.settled(conversation)
        await work_is(scene, conversation, "stopped")
        await scene.system.user.beta.sessions.archive(conversation.session_id)
    finally:
        assert await admin.release_webhooks("lifo")
    await becomes(scene.system, conversation.session_id, "SessionEnded")


async def _late(scene: Scene) -> None:
    """The events of a turn arrive after it: nothing is resumed for them."""
    admin = scene.system.anthropic_admin
    await admin.hold_webhooks()
    try:
        conversation = await scene.begin()
        assert "one" in await scene.say(conversation, "Run: echo one")
        await scene.settled(conversation)
        (sandbox,) = await sandboxes_of(scene.system, conversation.session_id)
    finally:
        await admin.release_webhooks("shuffle")

    async def delivered() -> bool:
        return any(each["status"] == 204 for each in await _deliveries(scene, conversation))

    await eventually("the events arrive", delivered)
    assert "two" in await scene.say(conversation, "Run: echo two")
    await scene.settled(conversation)
    (after,) = await sandboxes_of(scene.system, conversation.session_id)
    assert after.resumes <= sandbox.resumes + 1


async def _run_without_work(scene: Scene) -> None:
    """A run is told that brings no work: nothing runs for it for long."""
    conversation = await scene.begin()
    assert "kept" in await scene.say(conversation, "Run: echo kept | tee file")
    await scene.settled(conversation)
    event = await scene.system.anthropic_admin.deliver(type=RUN, object_id=conversation.session_id)
    await _delivered_at(scene, conversation, event)

    await scene.settled(conversation)
    assert "kept" in await scene.say(conversation, "Run: cat file")


async def _old_run_again(scene: Scene) -> None:
    """The event of a finished turn is delivered once more: nothing is resumed."""
    conversation = await scene.begin()
    assert "one" in await scene.say(conversation, "Run: echo one")
    await scene.settled(conversation)
    told = (await resource(scene.system, conversation.session_id))["status"]["lastEvent"]
    event = await scene.system.anthropic_admin.deliver(
        type=RUN, object_id=conversation.session_id, id=told["id"], created_at=told["createdAt"], copies=3
    )
    await _delivered_at(scene, conversation, event)
    await scene.settled(conversation)
    (sandbox,) = await sandboxes_of(scene.system, conversation.session_id)
    assert sandbox.resumes == 0


async def _of_another_environment(scene: Scene) -> None:
    """A run of a session of another environment is told: what it made is removed, nothing is paid for."""
    admin, user = scene.system.anthropic_admin, scene.system.user
    environment_id, _ = await admin.add_environment()
    foreign = await user.beta.sessions.create(agent=scene.system.agent_id, environment_id=environment_id)
    event = await admin.deliver(type=RUN, object_id=foreign.id, copies=2)
    await _of_nobody(scene, foreign.id, event)


async def _of_a_deleted_session(scene: Scene) -> None:
    """A run of a session is told that has been deleted."""
    admin, user = scene.system.anthropic_admin, scene.system.user
    session = await user.beta.sessions.create(
        agent=scene.system.agent_id, environment_id=scene.system.clouds.environment_id
    )
    await user.beta.sessions.delete(session.id)
    event = await admin.deliver(type=RUN, object_id=session.id)
    await _of_nobody(scene, session.id, event)


async def _of_nobody(scene: Scene, session_id: str, event: dict[str, Any]) -> None:
    async def taken() -> bool:
        deliveries = (await scene.system.anthropic_admin.session(session_id)).deliveries
        return any(each["event_id"] == event["id"] and each["status"] == 204 for each in deliveries)

    async def removed() -> bool:
        return not await resource(scene.system, session_id)

    await eventually("the event is taken", taken)
    await eventually("its resource is removed", removed)
    assert not await sandboxes_of(scene.system, session_id)
    conversation = await scene.begin()
    assert "served" in await scene.say(conversation, "Run: echo served")


async def _run_told_after_deletion(scene: Scene) -> None:
    """The session is deleted, and the event of its last run arrives after that of its deletion."""
    admin = scene.system.anthropic_admin
    conversation = await scene.begin()
    assert "done" in await scene.say(conversation, "Run: echo done")
    await scene.settled(conversation)
    await scene.system.user.beta.sessions.delete(conversation.session_id)
    await is_gone(scene, conversation)
    event = await admin.deliver(type=RUN, object_id=conversation.session_id)
    await _delivered_at(scene, conversation, event)
    await is_gone(scene, conversation)


async def _told_before_the_queue(scene: Scene) -> None:
    """The webhook tells of a run long before its work can be had: the sandbox is ready, and paused again."""
    await polls_fail(scene)
    conversation = await scene.begin()
    await scene.send(conversation, "Run: echo served")
    await waits_for_tool(scene, conversation)

    async def ready() -> bool:
        return bool(await sandboxes_of(scene.system, conversation.session_id, "running"))

    await eventually("the sandbox is ready", ready)
    await scene.settled(conversation)
    await scene.calm()
    assert "served" in await conversation.answer()


async def _during_a_turn(scene: Scene) -> None:
    """The event of a run comes again and again while its worker runs."""
    conversation = await scene.begin()
    await scene.send(conversation, "Run: sleep 2.47; echo served")
    await tool_runs(scene, conversation, "sleep 2.47")
    event: dict[str, Any] = {}
    for _ in range(3):
        event = await scene.system.anthropic_admin.deliver(type=RUN, object_id=conversation.session_id)
    await _delivered_at(scene, conversation, event)
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
