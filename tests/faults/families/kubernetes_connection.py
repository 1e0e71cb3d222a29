"""The connection to the API server: refused credentials, and connections that die without a word."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ...support.api_server_proxy import ApiCall
from ...support.arrangements import QUEUE_ONLY, WATCH_ALONE
from ...support.waiting import eventually
from ..kubectl_actions import becomes_phase, patch
from ..row import Row
from ..scenario import Scenario

FAMILY = "kubernetes"

Play = Callable[[Scenario], Awaitable[None]]

REPEATEDLY = 3
"""Refusals after which a call counts as refused for a while."""

SERVED_AGAIN_SECONDS = 60.0

NOTICED_WITHOUT_BOOKMARKS_SECONDS = 90.0


def _is_watch(call: ApiCall) -> bool:
    return call.operation == "watch managedsessions"


def _is_list(call: ApiCall) -> bool:
    return call.operation == "list managedsessions"


def _is_lease(call: ApiCall) -> bool:
    return call.resource == "leases"


def _is_status_write(call: ApiCall) -> bool:
    return call.operation == "patch managedsessions/status"


async def _watching(scenario: Scenario) -> None:
    async def look() -> bool:
        return scenario.proxy.watched

    await eventually("a watch is open", look)


async def _watch_tells(scenario: Scenario, seconds: float) -> None:
    """What a person changes is noticed in time; only the watch can tell of it."""
    conversation = await scenario.begin()
    assert "done" in await scenario.say(conversation, "Run: echo done")
    await scenario.settled(conversation)
    await patch(scenario, conversation, {"spec": {"lifecycle": {"suspend": True}}})
    await becomes_phase(scenario, conversation, "Suspended", seconds=seconds)
    await patch(scenario, conversation, {"spec": {"lifecycle": {"suspend": False}}})
    await becomes_phase(scenario, conversation, "Idle", seconds=seconds)


def _watch_unauthorized(matches: Callable[[ApiCall], bool]) -> Play:
    """The same token counts again a moment later; the process is the same one."""

    async def play(scenario: Scenario) -> None:
        process = scenario.system.operator.process.pid
        await _watching(scenario)
        rule = scenario.proxy.answer(matches, 401, times=None)
        await scenario.proxy.expire_watches()

        async def refused() -> bool:
            return rule.hits >= REPEATEDLY

        await eventually("the call is refused again and again", refused)
        scenario.proxy.remove(rule)
        await _watch_tells(scenario, SERVED_AGAIN_SECONDS)
        assert scenario.system.operator.process.pid == process

    return play


def _call_unauthorized(matches: Callable[[ApiCall], bool]) -> Play:
    async def play(scenario: Scenario) -> None:
        process = scenario.system.operator.process.pid
        conversation = await scenario.begin()
        rule = scenario.proxy.answer(matches, 401, times=None)
        await scenario.send(conversation, "Run: echo kept | tee /mnt/session/file")

        async def refused() -> bool:
            return rule.hits >= REPEATEDLY

        await eventually("the call is refused again and again", refused)
        scenario.proxy.remove(rule)
        assert "kept" in await conversation.answer(timeout_seconds=SERVED_AGAIN_SECONDS)
        await scenario.settled(conversation)
        assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")
        assert scenario.system.operator.process.pid == process

    return play


async def _unauthorized_at_the_start(scenario: Scenario) -> None:
    """Also the first question, which is that for the installation's ID where no setting has it."""
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scenario.settled(conversation)
    operator = scenario.system.operator
    operator.change_settings(installation_id="")
    await operator.process.stop()
    rule = scenario.proxy.answer(lambda _: True, 401, times=None)
    try:
        await operator.start()
        process = operator.process.pid

        async def refused() -> bool:
            return rule.hits >= REPEATEDLY

        await eventually("the calls are refused again and again", refused)
        scenario.proxy.remove(rule)
        await operator.wait_ready(SERVED_AGAIN_SECONDS)
        assert operator.process.pid == process
    finally:
        await operator.restart(installation_id=scenario.system.installation_id)
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")


async def _dropped(scenario: Scenario) -> None:
    """Only connections are lost, and new ones are served: the Lease is kept, the watch comes back."""
    await _watching(scenario)
    losses = _lease_losses(scenario)
    scenario.proxy.drop_connections()
    await _watch_tells(scenario, SERVED_AGAIN_SECONDS)
    assert _lease_losses(scenario) == losses


async def _dropped_in_a_turn(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: echo kept > /mnt/session/file; sleep 6; echo answered")
    await becomes_phase(scenario, conversation, "Running")
    scenario.proxy.drop_connections()
    assert "answered" in await conversation.answer()
    await scenario.settled(conversation)
    scenario.proxy.drop_connections()
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")


async def _dropped_at_the_webhook(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scenario.settled(conversation)
    scenario.webhook_proxy.drop_connections()
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")
    after = await scenario.begin()
    assert "new" in await scenario.say(after, "Run: echo new")


async def _muted(scenario: Scenario) -> None:
    """Nothing but the missing bookmarks tells, which come every minute."""
    await _watching(scenario)
    scenario.proxy.mute_open_watches()
    await _watch_tells(scenario, NOTICED_WITHOUT_BOOKMARKS_SECONDS)


def _lease_losses(scenario: Scenario) -> int:
    return scenario.system.operator.log.read_text().count('"lease lost"')


ROWS = [
    Row(
        FAMILY,
        "the watch is answered 401 for a moment",
        _watch_unauthorized(_is_watch),
        arrangement=WATCH_ALONE,
    ),
    Row(
        FAMILY,
        "the watch's list is answered 401 for a moment",
        _watch_unauthorized(_is_list),
        arrangement=WATCH_ALONE,
    ),
    Row(
        FAMILY,
        "every call of the operator is answered 401 for a moment",
        _watch_unauthorized(lambda _: True),
        arrangement=WATCH_ALONE,
    ),
    Row(
        FAMILY,
        "the Lease is answered 401 for a moment",
        _call_unauthorized(_is_lease),
        arrangement=QUEUE_ONLY,
    ),
    Row(
        FAMILY,
        "writes of the status are answered 401 for a moment",
        _call_unauthorized(_is_status_write),
        arrangement=QUEUE_ONLY,
    ),
    Row(
        FAMILY,
        "every call is answered 401 for a moment while an operator starts",
        _unauthorized_at_the_start,
        arrangement=QUEUE_ONLY,
    ),
    Row(
        FAMILY,
        "all connections of the operator die without a word",
        _dropped,
        arrangement=WATCH_ALONE,
    ),
    Row(
        FAMILY,
        "all connections of the operator die without a word in a turn and after it",
        _dropped_in_a_turn,
        arrangement=QUEUE_ONLY,
    ),
    Row(FAMILY, "all connections of the webhook die without a word", _dropped_at_the_webhook),
    Row(
        FAMILY,
        "the watch is acknowledged and brings nothing more",
        _muted,
        arrangement=WATCH_ALONE,
    ),
]
