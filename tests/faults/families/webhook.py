"""The webhook's process killed between its effects, and events as the outside may send them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from managed_session_api.times import to_wire

from ...support.arrangements import SHORT_ANNOUNCEMENTS
from ...support.sessions import resource, sandboxes_of
from ...support.waiting import eventually
from ..anthropic_side import with_work_settings
from ..effects import Effect
from ..kubectl_actions import delete, status
from ..row import Outcome, Row
from ..scenario import Scenario

FAMILY = "webhook"

Play = Callable[[Scenario], Awaitable[None]]

RUN = "session.status_run_started"
CREATE = Effect("kubernetes", "create managedsessions")
NOTE = Effect("kubernetes", "status: event")
BURST = 100


async def _answered(scenario: Scenario, session_id: str, code: int) -> None:
    """Wait until the webhook has answered a delivery about the session with this status."""

    async def look() -> bool:
        report = await scenario.system.anthropic_admin.session(session_id)
        return any(each.get("status") == code for each in report.deliveries)

    await eventually(f"the webhook answers {code}", look)


def _killed(effect: Effect, *, after_commit: bool) -> Play:
    """The event is delivered again to the process that is started in its place."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        rule = scenario.webhook_proxy.hold(effect.matches, after_commit=after_commit)
        await scenario.send(conversation, "Run: echo answered")
        await rule.reached.wait()
        await scenario.system.webhook.kill()
        rule.release(forward=False)
        await scenario.system.webhook.restart()
        await _answered(scenario, conversation.session_id, 204)
        assert "answered" in await conversation.answer()

    return play


async def _down(scenario: Scenario) -> None:
    """The queue is the backstop: the message needs no webhook."""
    await scenario.system.webhook.kill()
    try:
        conversation = await scenario.begin()
        assert "answered" in await scenario.say(conversation, "Run: echo answered")
    finally:
        await scenario.system.webhook.restart()


def _refused(effect: Effect, fault: str) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        proxy, matches = scenario.webhook_proxy, effect.matches
        if fault == "lost":
            rule = proxy.cut(matches, after_commit=True, times=2)
        elif fault == "cut":
            rule = proxy.cut(matches, times=2)
        else:
            rule = proxy.answer(matches, int(fault), times=2)
        await scenario.send(conversation, "Run: echo answered")
        assert "answered" in await conversation.answer()
        await _answered(scenario, conversation.session_id, 204)
        assert rule.hits

    return play


async def _partitioned(scenario: Scenario) -> None:
    async with scenario.webhook_proxy.partitioned():
        conversation = await scenario.begin()
        await scenario.send(conversation, "Run: echo answered")
        await _answered(scenario, conversation.session_id, 503)
        assert "answered" in await conversation.answer()
    await _answered(scenario, conversation.session_id, 204)


def _deliveries(action: dict[str, Any]) -> Play:
    """Every event of the session is delivered so, in two turns."""

    async def play(scenario: Scenario) -> None:
        admin = scenario.system.anthropic_admin
        await admin.add_fault("webhook.deliver", action, times=None)
        conversation = await scenario.begin()
        for _ in range(2):
            assert "answered" in await scenario.say(conversation, "Run: echo answered")
            await scenario.settled(conversation)

    return play


def _reordered(order: str) -> Play:
    """The events of two turns come after both, newest first or in any order."""

    async def play(scenario: Scenario) -> None:
        admin = scenario.system.anthropic_admin
        conversation = await scenario.begin()
        await admin.hold_webhooks()
        try:
            for _ in range(2):
                assert "answered" in await scenario.say(conversation, "Run: echo answered")
                await scenario.settled(conversation)
        finally:
            assert await admin.release_webhooks(order)
        await _answered(scenario, conversation.session_id, 204)

    return play


async def _of_another_environment(scenario: Scenario) -> None:
    """An announced run is not believed: no sandbox, and its resource goes."""
    system = scenario.system
    environment_id, _ = await system.anthropic_admin.add_environment()
    session = await system.user.beta.sessions.create(agent=system.agent_id, environment_id=environment_id)
    await system.anthropic_admin.deliver(type=RUN, object_id=session.id)
    await _answered(scenario, session.id, 204)
    await _leaves_nothing(scenario, session.id)


async def _of_a_deleted_session(scenario: Scenario) -> None:
    """The run's event comes after the session's end, for a resource that is gone or going."""
    system = scenario.system
    session = await system.user.beta.sessions.create(
        agent=system.agent_id, environment_id=system.clouds.environment_id
    )
    before = to_wire(datetime.now(UTC))
    await system.user.beta.sessions.delete(session.id)
    await system.anthropic_admin.deliver(type=RUN, object_id=session.id, created_at=before)
    await _answered(scenario, session.id, 204)
    await _leaves_nothing(scenario, session.id)


async def _leaves_nothing(scenario: Scenario, session_id: str) -> None:
    async def gone() -> bool:
        return not await resource(scenario.system, session_id)

    await eventually("the resource is gone", gone)
    assert not await sandboxes_of(scenario.system, session_id), "nothing was paid for it"


async def _of_a_terminating_resource(scenario: Scenario) -> None:
    """Answered 503 until the old resource is gone; then it makes a new one."""
    conversation = await scenario.begin()
    assert "done" in await scenario.say(conversation, "Run: echo done")
    await scenario.settled(conversation)
    admin = scenario.system.e2b_admin
    # Each kill, since one that is not answered in time is repeated.
    held = await admin.add_fault("kill", {"action": "hang", "seconds": 60}, times=100)
    await delete(scenario, conversation)

    async def reached() -> bool:
        return any(each["hits"] for each in await admin.faults() if each["id"] == held["id"])

    await eventually("the kill is held", reached)
    await scenario.send(conversation, "Run: echo served anew")
    await _answered(scenario, conversation.session_id, 503)
    await admin.clear_faults()
    assert "served anew" in await conversation.answer()


def _skewed(ahead: timedelta) -> Play:
    """An event whose time is far from the others', announcing a run that is none."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
        await scenario.settled(conversation)
        at = to_wire(datetime.now(UTC) + ahead)
        await scenario.system.anthropic_admin.deliver(
            type=RUN, object_id=conversation.session_id, id="whe_skewed", created_at=at
        )
        if ahead > timedelta():

            async def noted() -> bool:
                event = (await status(scenario, conversation)).get("lastEvent") or {}
                return event.get("id") == "whe_skewed"

            await eventually("the event is noted", noted)
        assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")

    return play


async def _replayed(scenario: Scenario) -> None:
    """A signature of an hour ago is refused."""
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scenario.settled(conversation)
    event = await scenario.system.anthropic_admin.deliver(
        type="session.deleted", object_id=conversation.session_id, timestamp_offset_seconds=-3600
    )
    await _answered(scenario, conversation.session_id, 401)
    found = await resource(scenario.system, conversation.session_id)
    # One of the session's own may have come meanwhile.
    assert found["status"].get("lastEvent", {}).get("id") != event["id"]
    assert "endedAt" not in found["status"]


async def _burst(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    now, admin = datetime.now(UTC), scenario.system.anthropic_admin
    await scenario.send(conversation, "Run: sleep 1; echo answered")
    await asyncio.gather(
        *(
            admin.deliver(
                type=RUN,
                object_id=conversation.session_id,
                id=f"whe_burst_{number}",
                created_at=to_wire(now + timedelta(milliseconds=number)),
            )
            for number in range(BURST)
        )
    )
    assert "answered" in await conversation.answer()


def _row(
    name: str,
    play: Play,
    outcome: Outcome = Outcome(),  # noqa: B008 - immutable
    cuts: tuple[Effect, bool] | None = None,
) -> Row:
    return Row(FAMILY, name, play, arrangement=SHORT_ANNOUNCEMENTS, outcome=outcome, cuts=cuts)


ROWS = [
    *(
        _row(
            f"killed {'after' if after else 'before'} its {effect.name} took effect",
            _killed(effect, after_commit=after),
            cuts=(effect, after),
        )
        for effect in (CREATE, NOTE)
        for after in (False, True)
    ),
    _row("away", _down),
    _row("cut off from the API server", _partitioned),
    *(
        _row(f"its {effect.name} meets {fault} twice", _refused(effect, fault))
        for effect in (CREATE, NOTE)
        for fault in ("401", "409", "500", "cut", "lost")
    ),
    _row("events are lost", _deliveries({"action": "drop"})),
    _row("events are delivered five times", _deliveries({"action": "duplicate", "copies": 5})),
    _row("events come a second late", _deliveries({"action": "delay", "seconds": 1})),
    _row("events come newest first, after the turns", _reordered("lifo")),
    _row("events come in any order, after the turns", _reordered("shuffle")),
    _row("an event is about a session of another environment", _of_another_environment),
    _row(
        "an event is about a deleted session",
        # An offer made before the deletion would be proof enough for a sandbox.
        with_work_settings(_of_a_deleted_session, enqueue_at_creation=False),
    ),
    _row(
        "an event is about a resource that is being deleted", _of_a_terminating_resource, Outcome(sandboxes=2)
    ),
    _row("an event is dated a day ahead", _skewed(timedelta(days=1))),
    _row("an event is dated a day behind", _skewed(timedelta(days=-1))),
    _row("an event is replayed an hour later", _replayed),
    _row("a hundred events come at once", _burst),
]
