"""Sessions that end at any moment, and questions about sessions that are answered wrongly or not at all."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from itertools import cycle

from managed_session_api import names
from managed_session_local.conversation import Conversation

from ...cluster.sessions import becomes, resource, sweeps_pass
from ...cluster.waiting import eventually
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
from ..arrangements import IMPATIENT
from ..row import Outcome, Row
from ..scene import Scene
from .e2b_listing import LISTINGS

FAMILY = "anthropic sessions"

End = Callable[[], Awaitable[None]]
Moment = Callable[[Scene, Conversation, End], Awaitable[None]]
"""Brings a session to a moment, and calls what ends it."""


async def _before_the_claim(scene: Scene, conversation: Conversation, end: End) -> None:
    await polls_fail(scene)
    await scene.send(conversation, "Run: echo never")
    await waits_for_tool(scene, conversation)
    await end()
    await scene.calm()


async def _during_the_create(scene: Scene, conversation: Conversation, end: End) -> None:
    fault = await scene.system.e2b_admin.add_fault("create", {"action": "hang", "seconds": 60})
    await scene.send(conversation, "Run: echo never")
    await eventually("the create is on its way", lambda: _hit(scene, fault["id"]))
    await waits_for_tool(scene, conversation)
    await end()
    await scene.calm()


async def _between_acknowledgement_and_start(scene: Scene, conversation: Conversation, end: End) -> None:
    fault = await scene.system.e2b_admin.add_fault("files_write", {"action": "hang", "seconds": 60})
    await scene.send(conversation, "Run: echo never")
    await eventually("the start is on its way", lambda: _hit(scene, fault["id"]))
    await waits_for_tool(scene, conversation)
    await end()
    await scene.calm()


async def _in_a_tool_call(scene: Scene, conversation: Conversation, end: End) -> None:
    await scene.send(conversation, "Run: sleep 2.41; echo never")
    await tool_runs(scene, conversation, "sleep 2.41")
    await end()


async def _during_the_stop(scene: Scene, conversation: Conversation, end: End) -> None:
    match = {"credential": "sessions_token", "work_id": conversation.session_id}
    struck = await Fault("work.stop", {"action": "hang", "seconds": 60}, match=match).inject(scene)
    assert "done" in await scene.say(conversation, "Run: echo done")
    await struck.wait()
    await end()
    await scene.calm()


async def _while_idle(scene: Scene, conversation: Conversation, end: End) -> None:
    assert "done" in await scene.say(conversation, "Run: echo done")
    await scene.settled(conversation)
    await work_is(scene, conversation, "stopped")
    await end()


async def _hit(scene: Scene, identity: int) -> bool:
    return any(each["hits"] for each in await scene.system.e2b_admin.faults() if each["id"] == identity)


MOMENTS: list[tuple[str, Moment, bool]] = [
    ("before its work is claimed", _before_the_claim, True),
    ("while its sandbox is created", _during_the_create, True),
    ("between acknowledgement and start", _between_acknowledgement_and_start, True),
    ("in a tool call", _in_a_tool_call, True),
    ("while its worker stops", _during_the_stop, False),
    ("while it is idle", _while_idle, False),
]
"""When a session ends, and whether a message is unanswered then."""


async def _end(scene: Scene, conversation: Conversation, how: str) -> None:
    sessions = scene.system.user.beta.sessions
    match how:
        case "archived":
            await sessions.archive(conversation.session_id)
        case "deleted":
            await sessions.delete(conversation.session_id)
        case _:
            await scene.system.anthropic_admin.terminate_session(conversation.session_id)


def _ends(moment: Moment, how: str, *, told: bool) -> Play:
    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        if not told:
            match = {"object_id": conversation.session_id}
            await Fault("webhook.deliver", {"action": "drop"}, times=None, match=match).inject(scene)
        await moment(scene, conversation, lambda: _end(scene, conversation, how))
        if how == "deleted":
            await is_gone(scene, conversation)
        else:
            await becomes(scene.system, conversation.session_id, "SessionEnded")

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

    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        assert "kept" in await scene.say(conversation, "Run: echo kept | tee file")
        await scene.settled(conversation)
        match = {**OPERATOR, "session_id": conversation.session_id}
        struck = await Fault("sessions.get", action, times=3, match=match).inject(scene)
        await scene.system.anthropic_admin.deliver(type="session.deleted", object_id=conversation.session_id)
        await struck.wait(3)
        assert "kept" in await scene.say(conversation, "Run: cat file")

    return play


async def _no_events_of_a_living_session(scene: Scene) -> None:
    """A session is there, and there are no events of it: asked again at the sweep's pace."""
    conversation = await scene.begin()
    match = {**OPERATOR, "session_id": conversation.session_id}
    assert "kept" in await scene.say(conversation, "Run: echo kept | tee file")
    await becomes(scene.system, conversation.session_id, "Idle", status="True")
    struck = await Fault("events.list", answered(404), times=None, match=match).inject(scene)
    await scene.system.anthropic_admin.deliver(
        type="session.status_run_started", object_id=conversation.session_id
    )
    await struck.wait(3)
    before = await struck.count()
    await sweeps_pass(scene.system, LISTINGS)
    assert await struck.count() - before <= LISTINGS + 2
    await scene.calm()
    assert "kept" in await scene.say(conversation, "Run: cat file")


async def _false_end(scene: Scene) -> None:
    """A webhook tells an end that did not happen."""
    conversation = await scene.begin()
    assert "kept" in await scene.say(conversation, "Run: echo kept | tee file")
    await scene.settled(conversation)
    for kind in ("session.deleted", "session.status_terminated", "session.archived"):
        await scene.system.anthropic_admin.deliver(type=kind, object_id=conversation.session_id)
    assert "kept" in await scene.say(conversation, "Run: cat file")


def _not_ours(status: int) -> Play:
    """The question whose session it is, is answered so once: its work is offered, which is proof enough."""

    async def play(scene: Scene) -> None:
        await polls_fail(scene)
        struck = await Fault("sessions.get", answered(status), match=OPERATOR).inject(scene)
        conversation = await scene.begin()
        await scene.send(conversation, "Run: echo served")
        await struck.wait()
        await scene.calm()
        assert "served" in await conversation.answer()

    return play


async def _kept_after_the_end(scene: Scene) -> None:
    """An archived session's sandbox is kept, paused, for its time; then it goes."""
    conversation = await scene.begin()
    assert "done" in await scene.say(conversation, "Run: echo done")
    await scene.settled(conversation)
    await scene.system.user.beta.sessions.archive(conversation.session_id)
    await becomes(scene.system, conversation.session_id, "SessionEnded")
    await scene.settled(conversation)
    await scene.system.kubectl(
        "patch", names.PLURAL, names.resource_name(conversation.session_id), "--type=merge",
        "--patch", json.dumps({"spec": {"lifecycle": {"ttlSecondsAfterEnd": 0}}}),
    )  # fmt: skip
    await is_gone(scene, conversation)


async def _many_deleted(scene: Scene) -> None:
    """Sessions are deleted with their work queued: their entries are answered 404, the others are served."""
    await polls_fail(scene)
    gone = [await scene.begin() for _ in range(4)]
    served = await scene.begin()
    for each in (*gone, served):
        await scene.send(each, "Run: echo served")
        await waits_for_tool(scene, each)
    for each in gone:
        await scene.system.user.beta.sessions.delete(each.session_id)
    await scene.calm()
    assert "served" in await served.answer()
    for each in gone:
        await is_gone(scene, each)


async def _no_room_for_the_list(scene: Scene) -> None:
    """The work list can't be read, sweep after sweep; sessions are served."""
    conversation = await scene.begin()
    struck = await Fault("work.list", answered(500), times=6, match=OPERATOR).inject(scene)
    assert "kept" in await scene.say(conversation, "Run: echo kept | tee file")
    await struck.wait(3)
    await scene.settled(conversation)
    assert "kept" in await scene.say(conversation, "Run: cat file")
    assert (await resource(scene.system, conversation.session_id))["status"]["turns"] >= 1


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
