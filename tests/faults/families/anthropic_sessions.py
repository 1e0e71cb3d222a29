"""Sessions that end at any moment, and questions about sessions that are answered wrongly or not at all."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from itertools import cycle

from managed_session_api import names
from managed_session_cli.conversation import Conversation

from ...support.arrangements import IMPATIENT
from ...support.sessions import becomes, resource, resyncs_pass
from ...support.waiting import eventually
from ..anthropic_side import (
    LOST,
    OPERATOR,
    PROXY_PAGE,
    Action,
    Fault,
    Play,
    answered,
    in_first_turn,
    in_second_turn,
    is_gone,
    polls_fail,
    tool_runs,
    waits_for_tool,
    with_work_settings,
    work_is,
)
from ..row import Outcome, Row
from ..scenario import Scenario
from .e2b_listing import LISTINGS

FAMILY = "anthropic sessions"

End = Callable[[], Awaitable[None]]
Moment = Callable[[Scenario, Conversation, End], Awaitable[None]]
"""Brings a session to a moment, and calls what ends it."""


async def _before_the_claim(scenario: Scenario, conversation: Conversation, end: End) -> None:
    await polls_fail(scenario)
    await scenario.send(conversation, "Run: echo never")
    await waits_for_tool(scenario, conversation)
    await end()
    await scenario.calm()


async def _during_the_create(scenario: Scenario, conversation: Conversation, end: End) -> None:
    fault = await scenario.system.e2b_admin.add_fault("create", {"action": "hang", "seconds": 60})
    await scenario.send(conversation, "Run: echo never")
    await eventually("the create is on its way", lambda: _hit(scenario, fault["id"]))
    await waits_for_tool(scenario, conversation)
    await end()
    await scenario.calm()


async def _between_acknowledgement_and_start(
    scenario: Scenario, conversation: Conversation, end: End
) -> None:
    hang = {"action": "hang", "seconds": 60}
    fault = await scenario.system.e2b_admin.add_fault("files_write", hang, times=100)
    await scenario.send(conversation, "Run: echo never")
    await eventually("the start is on its way", lambda: _hit(scenario, fault["id"]))
    await waits_for_tool(scenario, conversation)
    await end()
    await scenario.calm()


async def _in_a_tool_call(scenario: Scenario, conversation: Conversation, end: End) -> None:
    await scenario.send(conversation, "Run: sleep 8.41; echo never")
    await tool_runs(scenario, conversation, "sleep 8.41")
    await end()


async def _during_the_stop(scenario: Scenario, conversation: Conversation, end: End) -> None:
    match = {"credential": "sessions_token", "work_id": conversation.session_id}
    struck = await Fault("work.stop", {"action": "hang", "seconds": 60}, match=match).inject(scenario)
    assert "done" in await scenario.say(conversation, "Run: echo done")
    await struck.wait()
    await end()
    await scenario.calm()


async def _while_idle(scenario: Scenario, conversation: Conversation, end: End) -> None:
    assert "done" in await scenario.say(conversation, "Run: echo done")
    await scenario.settled(conversation)
    await work_is(scenario, conversation, "stopped")
    await end()


async def _hit(scenario: Scenario, identity: int) -> bool:
    return any(each["hits"] for each in await scenario.system.e2b_admin.faults() if each["id"] == identity)


MOMENTS: list[tuple[str, Moment, bool]] = [
    ("before its work is claimed", _before_the_claim, True),
    ("while its sandbox is created", _during_the_create, True),
    ("between acknowledgement and start", _between_acknowledgement_and_start, True),
    ("in a tool call", _in_a_tool_call, True),
    ("while its worker stops", _during_the_stop, False),
    ("while it is idle", _while_idle, False),
]
"""When a session ends, and whether a message is unanswered then."""


async def _end(scenario: Scenario, conversation: Conversation, how: str) -> None:
    sessions = scenario.system.user.beta.sessions
    match how:
        case "archived":
            await sessions.archive(conversation.session_id)
        case "deleted":
            await sessions.delete(conversation.session_id)
        case _:
            await scenario.system.anthropic_admin.terminate_session(conversation.session_id)


def _ends(moment: Moment, how: str, *, told: bool) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        if not told:
            match = {"object_id": conversation.session_id}
            await Fault("webhook.deliver", {"action": "drop"}, times=None, match=match).inject(scenario)
        await moment(scenario, conversation, lambda: _end(scenario, conversation, how))
        if how == "deleted":
            await is_gone(scenario, conversation)
        else:
            await becomes(scenario.system, conversation.session_id, "SessionEnded")

    return play


def _end_rows() -> list[Row]:
    return [
        Row(
            FAMILY,
            f"a session is {how} {when}" + ("" if told else ", and no webhook tells"),
            with_work_settings(_ends(moment, how, told=told), enqueue_at_creation=False),
            arrangement=IMPATIENT,
            outcome=Outcome(unanswered=int(unanswered), gone=how == "deleted"),
        )
        for when, moment, unanswered in MOMENTS
        for how in ("archived", "terminated", "deleted")
        for told in (True, False)
        if told or moment is _while_idle or (moment is _in_a_tool_call and how == "deleted")
    ]


QUESTIONS: list[tuple[str, Action]] = [
    ("is answered 403", answered(403)),
    ("is answered 500", answered(500)),
    ("is answered 404 with a page of a proxy", PROXY_PAGE),
    ("is answered with a document that is none", answered(200, body="{")),
    ("is lost", LOST),
]


NOT_ANTHROPIC: list[tuple[str, Action]] = [
    ("a proxy answers 404", PROXY_PAGE),
    ("a proxy answers 404 with nothing", answered(404, body="")),
    ("a gateway answers 404 in JSON of its own", answered(404, body={"detail": "Not Found"})),
]


def _asked_at_the_end(action: Action) -> Play:
    """Whether a session has ended is answered by somebody else: it says nothing about the session."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        assert "kept" in await scenario.say(conversation, "Run: echo kept | tee file")
        await scenario.settled(conversation)
        match = {**OPERATOR, "session_id": conversation.session_id}
        struck = await Fault("sessions.get", action, times=3, match=match).inject(scenario)
        await scenario.system.anthropic_admin.deliver(
            type="session.deleted", object_id=conversation.session_id
        )
        await struck.wait(3)
        assert "kept" in await scenario.say(conversation, "Run: cat file")

    return play


async def _no_events_of_a_living_session(scenario: Scenario) -> None:
    """A session is there, and there are no events of it: asked again at the resync's pace."""
    conversation = await scenario.begin()
    match = {**OPERATOR, "session_id": conversation.session_id}
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee file")
    await becomes(scenario.system, conversation.session_id, "Idle", status="True")
    struck = await Fault("events.list", answered(404), times=None, match=match).inject(scenario)
    await scenario.system.anthropic_admin.deliver(
        type="session.status_run_started", object_id=conversation.session_id
    )
    await struck.wait(3)
    # The resyncs are counted from before the first reading until after the last one.
    resyncs = await _resyncs(scenario)
    before = await struck.count()
    await resyncs_pass(scenario.system, LISTINGS)
    asked = await struck.count() - before
    assert asked <= await _resyncs(scenario) - resyncs + 2
    await scenario.calm()
    assert "kept" in await scenario.say(conversation, "Run: cat file")


async def _resyncs(scenario: Scenario) -> int:
    return len((await scenario.system.e2b_admin.ledger(operation="list")).calls)


async def _false_end(scenario: Scenario) -> None:
    """A webhook tells an end that did not happen."""
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee file")
    await scenario.settled(conversation)
    for kind in ("session.deleted", "session.status_terminated", "session.archived"):
        await scenario.system.anthropic_admin.deliver(type=kind, object_id=conversation.session_id)
    assert "kept" in await scenario.say(conversation, "Run: cat file")


def _not_ours(status: int) -> Play:
    """The question whose session it is, is answered so once: its work is offered, which is proof enough."""

    async def play(scenario: Scenario) -> None:
        await polls_fail(scenario)
        struck = await Fault("sessions.get", answered(status), match=OPERATOR).inject(scenario)
        conversation = await scenario.begin()
        await scenario.send(conversation, "Run: echo served")
        await struck.wait()
        await scenario.calm()
        assert "served" in await conversation.answer()

    return play


async def _kept_after_the_end(scenario: Scenario) -> None:
    """An archived session's sandbox is kept, paused, for its time; then it goes."""
    conversation = await scenario.begin()
    assert "done" in await scenario.say(conversation, "Run: echo done")
    await scenario.settled(conversation)
    await scenario.system.user.beta.sessions.archive(conversation.session_id)
    await becomes(scenario.system, conversation.session_id, "SessionEnded")
    await scenario.settled(conversation)
    await scenario.system.kubectl(
        "patch", names.PLURAL, names.resource_name(conversation.session_id), "--type=merge",
        "--patch", json.dumps({"spec": {"lifecycle": {"ttlSecondsAfterEnd": 0}}}),
    )  # fmt: skip
    await is_gone(scenario, conversation)


async def _many_deleted(scenario: Scenario) -> None:
    """Sessions are deleted with their work queued: their entries are answered 404, the others are served."""
    await polls_fail(scenario)
    gone = [await scenario.begin() for _ in range(4)]
    served = await scenario.begin()
    for each in (*gone, served):
        await scenario.send(each, "Run: echo served")
        await waits_for_tool(scenario, each)
    for each in gone:
        await scenario.system.user.beta.sessions.delete(each.session_id)
    await scenario.calm()
    assert "served" in await served.answer()
    for each in gone:
        await is_gone(scenario, each)


async def _no_room_for_the_list(scenario: Scenario) -> None:
    """The work list can't be read, resync after resync; sessions are served."""
    conversation = await scenario.begin()
    struck = await Fault("work.list", answered(500), times=6, match=OPERATOR).inject(scenario)
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee file")
    await struck.wait(3)
    await scenario.settled(conversation)
    assert "kept" in await scenario.say(conversation, "Run: cat file")
    assert (await resource(scenario.system, conversation.session_id))["status"]["turns"] >= 1


ROWS = [
    *_end_rows(),
    *(
        Row(
            FAMILY,
            f"a question of the operator about a session {name}",
            play(Fault("sessions.get", action, match=OPERATOR)),
        )
        for play, (name, action) in zip(cycle((in_first_turn, in_second_turn)), QUESTIONS, strict=False)
    ),
    *(
        Row(
            FAMILY,
            f"a question of the operator about a session's events {name}",
            in_first_turn(Fault("events.list", action, match=OPERATOR)),
        )
        for name, action in QUESTIONS[-2:]
    ),
    Row(FAMILY, "the operator may not see a new session", _not_ours(403)),
    Row(FAMILY, "the operator is told that there is no such new session", _not_ours(404)),
    *(
        Row(FAMILY, f"an end is asked about and {name}", _asked_at_the_end(action))
        for name, action in NOT_ANTHROPIC
    ),
    Row(
        FAMILY,
        "a living session's events are not found",
        _no_events_of_a_living_session,
        arrangement=IMPATIENT,
    ),
    Row(FAMILY, "a webhook tells an end that did not happen", _false_end),
    Row(FAMILY, "an archived session's time is over", _kept_after_the_end, outcome=Outcome(gone=True)),
    Row(FAMILY, "sessions are deleted with their work queued", _many_deleted, outcome=Outcome(unanswered=4)),
    Row(FAMILY, "the work list can't be read", _no_room_for_the_list),
]
