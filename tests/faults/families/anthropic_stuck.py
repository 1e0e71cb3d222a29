"""Sessions that nobody would ever serve again: said, and with the operator's API key interrupted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from managed_session_api import names
from managed_session_cli.conversation import Conversation

from ...support.arrangements import IMPATIENT
from ...support.sessions import condition, resource
from ...support.waiting import eventually
from ..anthropic_side import (
    WORKER,
    Fault,
    Play,
    answered,
    hanging,
    offer_without_operator,
    user_sends,
    with_work_settings,
    work_is,
)
from ..kubectl_actions import make_again, name_of
from ..row import Outcome, Row
from ..scenario import Scenario

FAMILY = "anthropic stuck"
API_KEY = "anthropic-api-key"
SETTINGS = {"lease_ttl_seconds": 3, "enqueue_at_creation": False}
STUCK = {"SessionStuck", "WorkStranded", "WorkLost"}
"""Reasons that tell a person what to do."""

Wedge = Callable[[Scenario, Conversation], Awaitable[None]]
"""Sends a message, and sees to it that nobody serves it."""


async def _stranded(scenario: Scenario, conversation: Conversation) -> None:
    """Another worker has acknowledged the item and died before its first heartbeat."""
    await offer_without_operator(scenario, conversation, "Run: echo never", acknowledge=True)


async def _message_during_the_stop(scenario: Scenario, conversation: Conversation) -> None:
    """The message comes between the worker's decision that the session is idle and its stop.

    The same worker would serve it, but no result is taken from it.
    """
    match = {**WORKER, "work_id": conversation.session_id}
    struck = await Fault("work.stop", hanging(4), match=match).inject(scenario)
    assert "one" in await scenario.say(conversation, "Run: echo one")
    await struck.wait()
    match = {**WORKER, "session_id": conversation.session_id}
    await Fault("events.send", answered(403), times=None, match=match).inject(scenario)
    await scenario.send(conversation, "Run: echo never")
    await work_is(scenario, conversation, "stopped")


async def _results_refused(scenario: Scenario, conversation: Conversation) -> None:
    """Every result is refused, whichever worker posts it."""
    match = {**WORKER, "session_id": conversation.session_id}
    struck = await Fault("events.send", answered(413), times=None, match=match).inject(scenario)
    await scenario.send(conversation, "Run: echo never")
    await struck.wait()


def _recovered(wedge: Wedge) -> Play:
    """With an API key the session is interrupted, and takes the next message."""

    async def play(scenario: Scenario) -> None:
        scenario.system.operator.set_credential(API_KEY, scenario.system.api_key)
        try:
            conversation = await scenario.begin()
            await wedge(scenario, conversation)
            await eventually(
                "the session is interrupted", lambda: _interrupted(scenario, conversation), seconds=60
            )
            await scenario.calm()
            assert "next" in await scenario.say(conversation, "Run: echo next")
        finally:
            scenario.system.operator.set_credential(API_KEY, None)

    return play


def _said(wedge: Wedge) -> Play:
    """Without an API key the resource says what a person has to do, and that helps."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        await wedge(scenario, conversation)

        async def told() -> bool:
            ready = await condition(scenario.system, conversation.session_id)
            return ready.get("reason") in STUCK and "user.interrupt" in ready["message"]

        await eventually("the resource says what to do", told, seconds=60)
        await scenario.calm()
        await user_sends(scenario, conversation, type="user.interrupt")
        assert "next" in await scenario.say(conversation, "Run: echo next")

    return play


async def _deleted_and_made_again(scenario: Scenario, conversation: Conversation) -> None:
    """A resource without a past, whose session waits for a worker that was killed."""
    await _message_during_the_stop(scenario, conversation)
    body = await resource(scenario.system, conversation.session_id)
    await scenario.system.kubectl("delete", names.PLURAL, name_of(conversation))
    await make_again(scenario, body)


async def _interrupted(scenario: Scenario, conversation: Conversation) -> bool:
    report = await scenario.system.anthropic_admin.session(conversation.session_id)
    return any(turn.interrupted_at is not None for turn in report.turns)


async def _refused_key(scenario: Scenario) -> None:
    """The API key is refused: said, and the interrupt is sent once it is replaced."""
    system = scenario.system
    system.operator.set_credential(API_KEY, "sk-ant-api03-revoked")
    try:
        conversation = await scenario.begin()
        await _stranded(scenario, conversation)

        async def refused() -> bool:
            calls = (await system.anthropic_admin.ledger()).calls
            mine = [call for call in calls if call.get("session_id") == conversation.session_id]
            return any(call["operation"] == "events.send" and call["status"] == 401 for call in mine)

        await eventually("the API key is refused", refused)
        system.operator.set_credential(API_KEY, system.api_key)
        await eventually("the session is interrupted", lambda: _interrupted(scenario, conversation))
        assert "next" in await scenario.say(conversation, "Run: echo next")
    finally:
        system.operator.set_credential(API_KEY, None)


async def _queued_again_by_anthropic(scenario: Scenario) -> None:
    """A message during the stop brings work of its own: nothing is interrupted for it."""
    match = WORKER
    conversation = await scenario.begin()
    struck = await Fault("work.stop", {"action": "hang", "seconds": 60}, match=match).inject(scenario)
    assert "one" in await scenario.say(conversation, "Run: echo one")
    await struck.wait()
    await scenario.send(conversation, "Run: echo two")
    await scenario.calm()
    assert "two" in await conversation.answer()


WEDGES: list[tuple[str, Wedge]] = [
    ("acknowledged work is stranded by somebody's crash", _stranded),
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
