"""What Anthropic answers to a worker: heartbeats, results, streams; and what its user does meanwhile."""

from __future__ import annotations

import base64
import json
from typing import Any

from managed_session_local.conversation import Conversation

from ...cluster.sessions import becomes
from ...cluster.waiting import eventually
from ..anthropic_side import (
    ANSWER_LOST,
    LOST,
    WORKER,
    Action,
    Fault,
    Play,
    answered,
    count_is,
    hanging,
    in_first_turn,
    offer_without_operator,
    polls_fail,
    somebody_stops,
    stale_offers,
    tool_runs,
    user_sends,
    waits_for_tool,
    with_work_settings,
    work_is,
    worker_dies,
)
from ..row import Outcome, Row
from ..scene import Scene

FAMILY = "anthropic worker"

SHORT_LEASE = {"lease_ttl_seconds": 3}
"""Seconds; the worker heartbeats twice as often."""

ONCE_MORE = Outcome(results_posted_again=1)
"""The worker posts a result again whose first answer was lost."""

HEARTBEATS: list[tuple[str, Action]] = [
    ("is answered 401", answered(401)),
    ("is answered 412", answered(412)),
    ("is answered 500", answered(500)),
    ("is answered 503 after it took effect", answered(503, after_commit=True)),
    ("is lost before it took effect", LOST),
    ("is lost after it took effect", ANSWER_LOST),
]

SAME_IN_A_TOOL_CALL = {"is answered 503 after it took effect", "is lost before it took effect"}

RESULTS: list[tuple[str, Action, Outcome]] = [
    ("is answered 429", answered(429, headers={"retry-after": "1"}), Outcome()),
    ("is answered 500 before it took effect", answered(500), Outcome()),
    ("is answered 503 after it took effect", answered(503, after_commit=True), ONCE_MORE),
    ("is lost before it took effect", LOST, Outcome()),
    ("is lost after it took effect", ANSWER_LOST, ONCE_MORE),
]

OTHERS: list[tuple[str, Fault]] = [
    ("the worker's GET of the session is answered 500", Fault("sessions.get", answered(500), match=WORKER)),
    ("the worker's GET of the session is lost", Fault("sessions.get", LOST, match=WORKER)),
    ("the opening of the event stream is answered 500", Fault("events.stream", answered(500), match=WORKER)),
    (
        "the event stream is cut after its first event",
        Fault("events.stream", {"action": "sever", "after_events": 1}, match=WORKER),
    ),
    ("the list of events is answered 502", Fault("events.list", answered(502), match=WORKER)),
    ("the worker's stop is answered 500", Fault("work.stop", answered(500), match=WORKER)),
    ("the worker's stop is answered 409", Fault("work.stop", answered(409), match=WORKER)),
    ("the answer to the worker's stop is lost", Fault("work.stop", ANSWER_LOST, match=WORKER)),
    ("the worker's stop hangs", Fault("work.stop", hanging(3), match=WORKER)),
]


def _in_tool_call(*faults: Fault) -> Play:
    """The faults are in force while a tool call runs."""

    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        await scene.send(conversation, "Run: sleep 3.13; echo served")
        await tool_runs(scene, conversation, "sleep 3.13")
        struck = [await fault.inject(scene) for fault in faults]
        assert "served" in await conversation.answer()
        for each in struck:
            await each.wait(each.fault.times or 1)

    return play


def _slow_at_first(command: str) -> str:
    """A message whose tool call takes long by this command, and none the second time it is made."""
    return f"Run: test -e begun || {{ touch begun; {command}; }}; echo served"


async def _heartbeats(scene: Scene, conversation: Conversation, more: int) -> None:
    """Wait until the session's workers have heartbeated so many times more."""

    async def count() -> int:
        calls = (await scene.system.anthropic_admin.ledger()).calls
        work_id = conversation.session_id
        return sum(call["operation"] == "work.heartbeat" and call.get("work_id") == work_id for call in calls)

    before = await count()

    async def enough() -> bool:
        return await count() >= before + more

    await eventually(f"{more} more heartbeats", enough)


async def _no_heartbeat_succeeds(scene: Scene) -> None:
    """Heartbeats fail until the lease has lapsed; the tool call still runs then."""
    conversation = await scene.begin()
    await scene.send(conversation, _slow_at_first("sleep 60.17"))
    await tool_runs(scene, conversation, "sleep 60.17")
    match = {**WORKER, "work_id": conversation.session_id}
    await Fault("work.heartbeat", answered(503), times=None, match=match).inject(scene)
    await count_is(scene, conversation, "leases_lapsed", 1)
    await scene.system.anthropic_admin.clear_faults()
    assert "served" in await conversation.answer()


async def _lapse_in_tool_call(scene: Scene) -> None:
    """The lease lapses while the tool call runs; the work is offered again before the worker knows."""
    conversation = await scene.begin()
    await scene.send(conversation, "Run: sleep 2.19; echo served")
    await tool_runs(scene, conversation, "sleep 2.19")
    await scene.system.anthropic_admin.lapse_lease(conversation.session_id)
    assert "served" in await conversation.answer()


async def _lapse_while_idling(scene: Scene) -> None:
    """The lease lapses while the worker waits for the next message."""
    conversation = await scene.begin()
    assert "one" in await scene.say(conversation, "Run: echo one")
    await scene.system.anthropic_admin.lapse_lease(conversation.session_id)
    assert "two" in await scene.say(conversation, "Run: echo two")


async def _crash(scene: Scene) -> None:
    """The worker dies; its lease lives on, so its work can't be had before it has lapsed."""
    conversation = await scene.begin()
    await scene.send(conversation, _slow_at_first("sleep 60.23"))
    await tool_runs(scene, conversation, "sleep 60.23")
    await worker_dies(scene, conversation)
    await becomes(scene.system, conversation.session_id, "AwaitingLease")
    await scene.settled(conversation)
    await scene.system.anthropic_admin.lapse_lease(conversation.session_id)
    assert "served" in await conversation.answer()


async def _offered_under_a_live_lease(scene: Scene) -> None:
    """The worker dies, and the item is offered although its lease lives."""
    conversation = await scene.begin()
    item = await offer_without_operator(scene, conversation, _slow_at_first("sleep 60.29"))
    await stale_offers(scene, item, 1)
    await tool_runs(scene, conversation, "sleep 60.29")
    await worker_dies(scene, conversation)
    await becomes(scene.system, conversation.session_id, "AwaitingLease")
    await stale_offers(scene, item, 1)
    await scene.system.anthropic_admin.lapse_lease(conversation.session_id)
    assert "served" in await conversation.answer()


async def _stopped(scene: Scene) -> None:
    """Somebody force-stops the work while the tool call runs: the worker gives its result all the same."""
    await _stopped_by_somebody(scene, force=True)


async def _asked_to_stop(scene: Scene) -> None:
    """Somebody asks the worker to stop while the tool call runs."""
    await _stopped_by_somebody(scene, force=False)


async def _stopped_by_somebody(scene: Scene, *, force: bool) -> None:
    conversation = await scene.begin()
    await scene.send(conversation, "Run: sleep 3.53; echo served")
    await tool_runs(scene, conversation, "sleep 3.53")
    await somebody_stops(scene, conversation.session_id, force=force)
    assert "served" in await conversation.answer()
    await scene.settled(conversation)
    assert "next" in await scene.say(conversation, "Run: echo next")


async def _token_revoked(scene: Scene) -> None:
    """The session token is refused everywhere; the next offer brings another one."""
    conversation = await scene.begin()
    item = await offer_without_operator(scene, conversation, "Run: sleep 2.31; echo served")
    await stale_offers(scene, item, 1)
    await tool_runs(scene, conversation, "sleep 2.31")
    secret = item["secret"]
    bundle: dict[str, Any] = json.loads(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))
    await scene.system.anthropic_admin.revoke(bundle["sessions_token"])
    assert "served" in await conversation.answer()


async def _result_refused(scene: Scene) -> None:
    """A result is refused for good once; nobody else would ever give it."""
    conversation = await scene.begin()
    struck = await Fault("events.send", answered(400), match=WORKER).inject(scene)
    await scene.send(conversation, "Run: echo served")
    await struck.wait()
    assert "served" in await conversation.answer()


async def _streams_severed(scene: Scene) -> None:
    """All event streams of the session end while a tool call runs, and again while the worker idles."""
    conversation = await scene.begin()
    await scene.send(conversation, "Run: sleep 1.37; echo one")
    await tool_runs(scene, conversation, "sleep 1.37")
    await Fault("events.stream", LOST, times=2, match=WORKER).inject(scene)
    await scene.system.anthropic_admin.sever_streams(conversation.session_id)

    async def done() -> bool:
        report = await scene.system.anthropic_admin.session(conversation.session_id)
        return all(turn.answered_at is not None for turn in report.turns)

    await eventually("the turn is answered", done)
    await scene.system.anthropic_admin.sever_streams(conversation.session_id)
    await scene.send(conversation, "Run: echo two")
    await eventually("the second turn is answered", done)


async def _two_messages(scene: Scene) -> None:
    """A second message comes while the first is at work."""
    conversation = await scene.begin()
    await scene.send(conversation, json.dumps({"script": [{"sleep_ms": 500}, {"say": "one"}]}))
    await scene.send(conversation, "Run: echo two")

    async def both() -> bool:
        report = await scene.system.anthropic_admin.session(conversation.session_id)
        return [turn.answered_at is not None for turn in report.turns] == [True, True]

    await eventually("both messages are answered", both)


async def _messages_while_idling(scene: Scene) -> None:
    """Each message comes the moment the one before is answered."""
    conversation = await scene.begin()
    for number in range(5):
        assert str(number) in await scene.say(conversation, f"Run: echo {number}")


async def _interrupted(scene: Scene) -> None:
    """The user interrupts a tool call."""
    conversation = await scene.begin()
    await scene.send(conversation, "Run: sleep 3.41; echo never")
    await tool_runs(scene, conversation, "sleep 3.41")
    await user_sends(scene, conversation, type="user.interrupt")
    assert "next" in await scene.say(conversation, "Run: echo next")


async def _interrupted_before_claim(scene: Scene) -> None:
    """The user interrupts before anybody has claimed the work."""
    await polls_fail(scene)
    conversation = await scene.begin()
    await scene.send(conversation, "Run: echo never")
    await waits_for_tool(scene, conversation)
    await user_sends(scene, conversation, type="user.interrupt")
    await scene.send(conversation, "Run: echo next")
    await scene.calm()
    assert "next" in await conversation.answer()


def _ask(**fields: Any) -> str:
    call = {"tool": "bash", "input": {"command": "echo allowed"}, **fields}
    return json.dumps({"script": [call, {"say": "{result}"}]})


async def _waiting_for(scene: Scene, conversation: Conversation) -> str:
    await waits_for_tool(scene, conversation)
    (tool_use_id,) = (await scene.system.anthropic_admin.session(conversation.session_id)).waiting_for
    return tool_use_id


async def _long_confirmation(scene: Scene) -> None:
    """A person takes much longer to confirm a tool call than a worker may idle."""
    conversation = await scene.begin()
    await scene.send(conversation, _ask(permission="ask"))
    tool_use_id = await _waiting_for(scene, conversation)
    await _heartbeats(scene, conversation, 4)
    await user_sends(
        scene, conversation, type="user.tool_confirmation", tool_use_id=tool_use_id, result="allow"
    )
    assert "allowed" in await conversation.answer()


async def _confirmation_after_a_crash(scene: Scene) -> None:
    """The worker dies while a person is asked; the next worker waits for the same confirmation."""
    conversation = await scene.begin()
    await scene.send(conversation, _ask(permission="ask"))
    tool_use_id = await _waiting_for(scene, conversation)
    await work_is(scene, conversation, "active")
    await worker_dies(scene, conversation)
    await count_is(scene, conversation, "leases", 2)
    await user_sends(
        scene, conversation, type="user.tool_confirmation", tool_use_id=tool_use_id, result="allow"
    )
    assert "allowed" in await conversation.answer()


async def _denied(scene: Scene) -> None:
    """A person denies a tool call, late."""
    conversation = await scene.begin()
    await scene.send(conversation, _ask(permission="ask"))
    tool_use_id = await _waiting_for(scene, conversation)
    await _heartbeats(scene, conversation, 3)
    await user_sends(
        scene, conversation, type="user.tool_confirmation", tool_use_id=tool_use_id, result="deny"
    )
    assert "denied" in await conversation.answer()


async def _custom_tool(scene: Scene) -> None:
    """A tool call is the user's to answer, and takes the user long."""
    conversation = await scene.begin()
    await scene.send(conversation, _ask(custom=True, tool="ask_a_person"))
    tool_use_id = await _waiting_for(scene, conversation)
    await _heartbeats(scene, conversation, 4)
    content = [{"type": "text", "text": "by hand"}]
    await user_sends(
        scene,
        conversation,
        type="user.custom_tool_result",
        custom_tool_use_id=tool_use_id,
        content=content,
    )
    assert "by hand" in await conversation.answer()
    assert "next" in await scene.say(conversation, "Run: echo next")


def _row(name: str, play: Play, outcome: Outcome = Outcome()) -> Row:  # noqa: B008 - immutable
    return Row(FAMILY, name, with_work_settings(play, **SHORT_LEASE), outcome=outcome)


ROWS = [
    *(
        _row(f"the first heartbeat {name}", in_first_turn(Fault("work.heartbeat", action, match=WORKER)))
        for name, action in HEARTBEATS
    ),
    *(
        _row(f"a heartbeat in a tool call {name}", _in_tool_call(Fault("work.heartbeat", action)))
        for name, action in HEARTBEATS
        if name not in SAME_IN_A_TOOL_CALL
    ),
    *(
        _row(f"a result {name}", in_first_turn(Fault("events.send", action, match=WORKER)), outcome)
        for name, action, outcome in RESULTS
    ),
    *(_row(name, in_first_turn(fault)) for name, fault in OTHERS),
    _row("no heartbeat succeeds until the lease lapses", _no_heartbeat_succeeds),
    Row(FAMILY, "the lease lapses in a tool call", _lapse_in_tool_call),
    Row(FAMILY, "the lease lapses while the worker idles", _lapse_while_idling),
    Row(FAMILY, "a worker dies and its lease lives", _crash),
    Row(
        FAMILY,
        "work is offered under a dead worker's live lease",
        with_work_settings(_offered_under_a_live_lease, enqueue_at_creation=False),
    ),
    Row(
        FAMILY,
        "the session token is revoked in a tool call",
        with_work_settings(_token_revoked, enqueue_at_creation=False, **SHORT_LEASE),
    ),
    _row("work is stopped by somebody in a tool call", _stopped),
    _row("a worker is asked to stop in a tool call", _asked_to_stop),
    _row("a result is refused for good", _result_refused),
    Row(FAMILY, "event streams are severed", _streams_severed),
    Row(FAMILY, "a second message comes while the first is at work", _two_messages),
    Row(FAMILY, "messages come while the worker idles", _messages_while_idling),
    Row(FAMILY, "the user interrupts a tool call", _interrupted),
    Row(FAMILY, "the user interrupts before the claim", _interrupted_before_claim),
    _row("a confirmation takes long", _long_confirmation),
    _row("the worker dies while a confirmation is awaited", _confirmation_after_a_crash),
    _row("a tool call is denied late", _denied),
    _row("the user answers a custom tool call late", _custom_tool),
]
