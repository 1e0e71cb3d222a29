"""Sessions that nobody would ever serve again: said, and with the operator's API key interrupted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from managed_session_api import names
from managed_session_local.conversation import Conversation

from ...cluster.sessions import condition, resource
from ...cluster.waiting import eventually
from ..anthropic_side import (
    WORKER,
    Fault,
    Play,
    answered,
    offer_without_operator,
    somebody_stops,
    stale_offers,
    user_sends,
    with_work_settings,
    work_is,
)
from ..arrangements import IMPATIENT
from ..by_hand import make_again, name_of
from ..row import Outcome, Row
from ..scene import Scene

FAMILY = "anthropic stuck"
API_KEY = "anthropic-api-key"
SETTINGS = {"lease_ttl_seconds": 3, "enqueue_at_creation": False}
STUCK = {"SessionStuck", "WorkStranded", "WorkLost"}
"""Reasons that tell a person what to do."""

Wedge = Callable[[Scene, Conversation], Awaitable[None]]
"""Sends a message, and sees to it that nobody serves it."""


async def _stranded(scene: Scene, conversation: Conversation) -> None:
    """Another worker has acknowledged the item and died before its first heartbeat."""
    await offer_without_operator(scene, conversation, "Run: echo never", acknowledge=True)


async def _stopped_before_acknowledgement(scene: Scene, conversation: Conversation) -> None:
    item = await offer_without_operator(scene, conversation, "Run: echo never")
    await somebody_stops(scene, item["id"], force=True)
    await stale_offers(scene, item, 1)


async def _stopped_before_start(scene: Scene, conversation: Conversation) -> None:
    await scene.system.e2b_admin.add_fault("files_write", {"action": "hang", "seconds": 60})
    await scene.send(conversation, "Run: echo never")
    item = await work_is(scene, conversation, "starting")
    await somebody_stops(scene, item["id"], force=True)
    await scene.calm()


async def _message_during_the_stop(scene: Scene, conversation: Conversation) -> None:
    """The message comes between the worker's decision that the session is idle and its stop."""
    match = {**WORKER, "work_id": conversation.session_id}
    struck = await Fault("work.stop", {"action": "hang", "seconds": 60}, match=match).inject(scene)
    assert "one" in await scene.say(conversation, "Run: echo one")
    await struck.wait()
    await scene.send(conversation, "Run: echo never")
    await scene.calm()


async def _results_refused(scene: Scene, conversation: Conversation) -> None:
    """Every result is refused, whichever worker posts it."""
    match = {**WORKER, "session_id": conversation.session_id}
    struck = await Fault("events.send", answered(400), times=None, match=match).inject(scene)
    await scene.send(conversation, "Run: echo never")
    await struck.wait()


def _recovered(wedge: Wedge) -> Play:
    """With an API key the session is interrupted, and takes the next message."""

    async def play(scene: Scene) -> None:
        scene.system.operator.set_credential(API_KEY, scene.system.api_key)
        try:
            conversation = await scene.begin()
            await wedge(scene, conversation)
            await eventually("the session is interrupted", lambda: _interrupted(scene, conversation))
            await scene.calm()
            assert "next" in await scene.say(conversation, "Run: echo next")
        finally:
            scene.system.operator.set_credential(API_KEY, None)

    return play


def _said(wedge: Wedge) -> Play:
    """Without an API key the resource says what a person has to do, and that helps."""

    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        await wedge(scene, conversation)

        async def told() -> bool:
            ready = await condition(scene.system, conversation.session_id)
            return ready.get("reason") in STUCK and "user.interrupt" in ready["message"]

        await eventually("the resource says what to do", told)
        await scene.calm()
        await user_sends(scene, conversation, type="user.interrupt")
        assert "next" in await scene.say(conversation, "Run: echo next")

    return play


async def _deleted_and_made_again(scene: Scene, conversation: Conversation) -> None:
    """A resource without a past, whose session waits for a worker that was killed."""
    await _message_during_the_stop(scene, conversation)
    body = await resource(scene.system, conversation.session_id)
    await scene.system.kubectl("delete", names.PLURAL, name_of(conversation))
    await make_again(scene, body)


async def _interrupted(scene: Scene, conversation: Conversation) -> bool:
    report = await scene.system.anthropic_admin.session(conversation.session_id)
    return any(turn.interrupted_at is not None for turn in report.turns)


async def _refused_key(scene: Scene) -> None:
    """The API key is refused: said, and the interrupt is sent once it is replaced."""
    system = scene.system
    system.operator.set_credential(API_KEY, "sk-ant-api03-revoked")
    try:
        conversation = await scene.begin()
        await _stranded(scene, conversation)

        async def refused() -> bool:
            calls = (await system.anthropic_admin.ledger()).calls
            mine = [call for call in calls if call.get("session_id") == conversation.session_id]
            return any(call["operation"] == "events.send" and call["status"] == 401 for call in mine)

        await eventually("the API key is refused", refused)
        system.operator.set_credential(API_KEY, system.api_key)
        await eventually("the session is interrupted", lambda: _interrupted(scene, conversation))
        assert "next" in await scene.say(conversation, "Run: echo next")
    finally:
        system.operator.set_credential(API_KEY, None)


async def _queued_again_by_anthropic(scene: Scene) -> None:
    """A message during the stop brings work of its own: nothing is interrupted for it."""
    match = WORKER
    conversation = await scene.begin()
    struck = await Fault("work.stop", {"action": "hang", "seconds": 60}, match=match).inject(scene)
    assert "one" in await scene.say(conversation, "Run: echo one")
    await struck.wait()
    await scene.send(conversation, "Run: echo two")
    await scene.calm()
    assert "two" in await conversation.answer()


WEDGES: list[tuple[str, Wedge]] = [
    ("acknowledged work is stranded by somebody's crash", _stranded),
    ("work is stopped by somebody before it is acknowledged", _stopped_before_acknowledgement),
    ("work is stopped by somebody before its worker starts", _stopped_before_start),
    ("a message comes while the worker stops", _message_during_the_stop),
    ("results are refused again and again", _results_refused),
    ("a message comes while the worker stops, and the resource is made anew", _deleted_and_made_again),
]


def _outcome(wedge: Wedge) -> Outcome:
    return Outcome(sandboxes=2 if wedge is _deleted_and_made_again else 1)


ROWS = [
    *(
        Row(
            FAMILY,
            f"{name}, and there is an API key",
            with_work_settings(_recovered(wedge), **SETTINGS),
            IMPATIENT,
            _outcome(wedge),
        )
        for name, wedge in WEDGES
    ),
    *(
        Row(
            FAMILY,
            f"{name}, and there is no API key",
            with_work_settings(_said(wedge), **SETTINGS),
            IMPATIENT,
            _outcome(wedge),
        )
        for name, wedge in WEDGES
        if wedge is not _stopped_before_start
    ),
    Row(
        FAMILY,
        "the API key for an interrupt is refused",
        with_work_settings(_refused_key, **SETTINGS),
        IMPATIENT,
    ),
    Row(
        FAMILY,
        "a message comes while the worker stops, and its work is queued again",
        with_work_settings(_queued_again_by_anthropic, requeue_unanswered_on_stop=True),
    ),
]
