"""What Anthropic answers to a worker: heartbeats, results, streams; and what its user does meanwhile."""

from __future__ import annotations

import base64
import json
from typing import Any

from managed_session_cli.conversation import Conversation

from ...support.sessions import becomes
from ...support.waiting import eventually
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
    slow_at_first,
    somebody_stops,
    stale_offers,
    tool_runs,
    user_sends,
    waits_for_tool,
    with_work_settings,
    work_is,
    worker_dies,
)
from ..kubectl_actions import wait_long_for_messages
from ..row import Outcome, Row
from ..scenario import Scenario

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

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        await scenario.send(conversation, "Run: sleep 6.13; echo served")
        await tool_runs(scenario, conversation, "sleep 6.13")
        struck = [await fault.inject(scenario) for fault in faults]
        assert "served" in await conversation.answer()
        for each in struck:
            await each.wait(each.fault.times or 1)

    return play


async def _heartbeats(scenario: Scenario, conversation: Conversation, more: int) -> None:
    """Wait until the session's workers have heartbeated so many times more."""

    async def count() -> int:
        calls = (await scenario.system.anthropic_admin.ledger()).calls
        work_id = conversation.session_id
        return sum(call["operation"] == "work.heartbeat" and call.get("work_id") == work_id for call in calls)

    before = await count()

    async def enough() -> bool:
        return await count() >= before + more

    await eventually(f"{more} more heartbeats", enough)


async def _no_heartbeat_succeeds(scenario: Scenario) -> None:
    """Heartbeats fail until the lease has lapsed; the tool call still runs then."""
    conversation = await scenario.begin()
    await scenario.send(conversation, slow_at_first("sleep 60.17"))
    await tool_runs(scenario, conversation, "sleep 60.17")
    match = {**WORKER, "work_id": conversation.session_id}
    await Fault("work.heartbeat", answered(503), times=None, match=match).inject(scenario)
    await count_is(scenario, conversation, "leases_lapsed", 1)
    await scenario.system.anthropic_admin.clear_faults()
    assert "served" in await conversation.answer()


async def _lapse_in_tool_call(scenario: Scenario) -> None:
    """The lease lapses while the tool call runs; the work is offered again before the worker knows."""
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: sleep 6.19; echo served")
    await tool_runs(scenario, conversation, "sleep 6.19")
    await scenario.system.anthropic_admin.lapse_lease(conversation.session_id)
    assert "served" in await conversation.answer()


async def _lapse_while_idling(scenario: Scenario) -> None:
    """The lease lapses while the worker waits for the next message."""
    conversation = await scenario.begin()
    await wait_long_for_messages(scenario, conversation)
    assert "one" in await scenario.say(conversation, "Run: echo one")
    await scenario.system.anthropic_admin.lapse_lease(conversation.session_id)
    assert "two" in await scenario.say(conversation, "Run: echo two")


async def _crash(scenario: Scenario) -> None:
    """The worker dies; its lease lives on, so its work can't be had before it has lapsed."""
    conversation = await scenario.begin()
    await scenario.send(conversation, slow_at_first("sleep 60.23"))
    await tool_runs(scenario, conversation, "sleep 60.23")
    await worker_dies(scenario, conversation)
    await becomes(scenario.system, conversation.session_id, "AwaitingLease")
    await scenario.settled(conversation)
    await scenario.system.anthropic_admin.lapse_lease(conversation.session_id)
    assert "served" in await conversation.answer()


async def _offered_under_a_live_lease(scenario: Scenario) -> None:
    """The worker dies, and the item is offered although its lease lives."""
    conversation = await scenario.begin()
    item = await offer_without_operator(scenario, conversation, slow_at_first("sleep 60.29"))
    await stale_offers(scenario, item, 1)
    await tool_runs(scenario, conversation, "sleep 60.29")
    await worker_dies(scenario, conversation)
    await becomes(scenario.system, conversation.session_id, "AwaitingLease")
    await stale_offers(scenario, item, 1)
    await scenario.system.anthropic_admin.lapse_lease(conversation.session_id)
    assert "served" in await conversation.answer()


async def _stopped(scenario: Scenario) -> None:
    """Somebody force-stops the work while the tool call runs: the worker gives its result all the same."""
    await _stopped_by_somebody(scenario, force=True)


async def _asked_to_stop(scenario: Scenario) -> None:
    """Somebody asks the worker to stop while the tool call runs."""
    await _stopped_by_somebody(scenario, force=False)


async def _stopped_by_somebody(scenario: Scenario, *, force: bool) -> None:
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: sleep 8.53; echo served")
    await tool_runs(scenario, conversation, "sleep 8.53")
    await somebody_stops(scenario, conversation.session_id, force=force)
    assert "served" in await conversation.answer()
    await scenario.settled(conversation)
    assert "next" in await scenario.say(conversation, "Run: echo next")


async def _token_revoked(scenario: Scenario) -> None:
    """The session token is refused everywhere; the next offer brings another one."""
    conversation = await scenario.begin()
    item = await offer_without_operator(scenario, conversation, "Run: sleep 6.31; echo served")
    await stale_offers(scenario, item, 1)
    await tool_runs(scenario, conversation, "sleep 6.31")
    secret = item["secret"]
    bundle: dict[str, Any] = json.loads(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))
    await scenario.system.anthropic_admin.revoke(bundle["sessions_token"])
    assert "served" in await conversation.answer()


async def _result_refused(scenario: Scenario) -> None:
    """A result is refused for good once; nobody else would ever give it."""
    conversation = await scenario.begin()
    struck = await Fault("events.send", answered(413), match=WORKER).inject(scenario)
    await scenario.send(conversation, "Run: echo served")
    await struck.wait()
    assert "served" in await conversation.answer()


async def _streams_severed(scenario: Scenario) -> None:
    """All event streams of the session end while a tool call runs, and again while the worker idles."""
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: sleep 6.37; echo one")
    await tool_runs(scenario, conversation, "sleep 6.37")
    await Fault("events.stream", LOST, times=2, match=WORKER).inject(scenario)
    await scenario.system.anthropic_admin.sever_streams(conversation.session_id)

    async def done() -> bool:
        report = await scenario.system.anthropic_admin.session(conversation.session_id)
        return all(turn.answered_at is not None for turn in report.turns)

    await eventually("the turn is answered", done)
    await scenario.system.anthropic_admin.sever_streams(conversation.session_id)
    await scenario.send(conversation, "Run: echo two")
    await eventually("the second turn is answered", done)


async def _two_messages(scenario: Scenario) -> None:
    """A second message comes while the first is at work."""
    conversation = await scenario.begin()
    await scenario.send(conversation, json.dumps({"script": [{"sleep_ms": 500}, {"say": "one"}]}))
    await scenario.send(conversation, "Run: echo two")

    async def both() -> bool:
        report = await scenario.system.anthropic_admin.session(conversation.session_id)
        return [turn.answered_at is not None for turn in report.turns] == [True, True]

    await eventually("both messages are answered", both)


async def _messages_while_idling(scenario: Scenario) -> None:
    """Each message comes the moment the one before is answered."""
    conversation = await scenario.begin()
    for number in range(5):
        assert str(number) in await scenario.say(conversation, f"Run: echo {number}")


def _ask(**fields: Any) -> str:
    call = {"tool": "bash", "input": {"command": "echo allowed"}, **fields}
    return json.dumps({"script": [call, {"say": "{result}"}]})


async def _waiting_for(scenario: Scenario, conversation: Conversation) -> str:
    await waits_for_tool(scenario, conversation)
    (tool_use_id,) = (await scenario.system.anthropic_admin.session(conversation.session_id)).waiting_for
    return tool_use_id


async def _long_confirmation(scenario: Scenario) -> None:
    """A person takes much longer to confirm a tool call than a worker may idle."""
    conversation = await scenario.begin()
    await scenario.send(conversation, _ask(permission="ask"))
    tool_use_id = await _waiting_for(scenario, conversation)
    await _heartbeats(scenario, conversation, 4)
    await user_sends(
        scenario, conversation, type="user.tool_confirmation", tool_use_id=tool_use_id, result="allow"
    )
    assert "allowed" in await conversation.answer()


async def _confirmation_after_a_crash(scenario: Scenario) -> None:
    """The worker dies while a person is asked; the next worker waits for the same confirmation."""
    conversation = await scenario.begin()
    await scenario.send(conversation, _ask(permission="ask"))
    tool_use_id = await _waiting_for(scenario, conversation)
    await work_is(scenario, conversation, "active")
    await worker_dies(scenario, conversation)
    await count_is(scenario, conversation, "leases", 2)
    await user_sends(
        scenario, conversation, type="user.tool_confirmation", tool_use_id=tool_use_id, result="allow"
    )
    assert "allowed" in await conversation.answer()


async def _denied(scenario: Scenario) -> None:
    """A person denies a tool call, late."""
    conversation = await scenario.begin()
    await scenario.send(conversation, _ask(permission="ask"))
    tool_use_id = await _waiting_for(scenario, conversation)
    await _heartbeats(scenario, conversation, 3)
    await user_sends(
        scenario, conversation, type="user.tool_confirmation", tool_use_id=tool_use_id, result="deny"
    )
    assert "denied" in await conversation.answer()


async def _custom_tool(scenario: Scenario) -> None:
    """A tool call is the user's to answer, and takes the user long."""
    conversation = await scenario.begin()
    await scenario.send(conversation, _ask(custom=True, tool="ask_a_person"))
    tool_use_id = await _waiting_for(scenario, conversation)
    await _heartbeats(scenario, conversation, 4)
    content = [{"type": "text", "text": "by hand"}]
    await user_sends(
        scenario,
        conversation,
        type="user.custom_tool_result",
        custom_tool_use_id=tool_use_id,
        content=content,
    )
    assert "by hand" in await conversation.answer()
    assert "next" in await scenario.say(conversation, "Run: echo next")


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
    _row("a confirmation takes long", _long_confirmation),
    _row("the worker dies while a confirmation is awaited", _confirmation_after_a_crash),
    _row("a tool call is denied late", _denied),
    _row("the user answers a custom tool call late", _custom_tool),
]
