"""Single calls to the API server that are refused, lost or slow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ...support.api_server_proxy import ApiCall, ApiServerProxy, Rule
from ...support.arrangements import QUEUE_ONLY
from ...support.waiting import eventually
from ..effects import Effect, kubernetes_effect
from ..kubectl_actions import delete
from ..row import Outcome, Row
from ..scenario import Scenario

FAMILY = "kubernetes"

Play = Callable[[Scenario], Awaitable[None]]

WRITES = [
    "create managedsessions",
    "create secrets",
    "status: claim",
    "status: sandbox ID",
    "status: acknowledged",
    "status: heartbeat",
    "delete secrets",
    "identity",
    "status: finished",
]
"""The operator's writes of a first turn."""

REPEATEDLY = 3
"""Refusals after which a refused write counts as refused for a while."""


def _write(name: str) -> Callable[[ApiCall], bool]:
    return Effect("kubernetes", name).matches


def _is_status_write(call: ApiCall) -> bool:
    return call.operation == "patch managedsessions/status"


async def _life(scenario: Scenario) -> None:
    """A first turn, and a second one in the same sandbox."""
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scenario.settled(conversation)
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")
    await scenario.settled(conversation)


def _once(fault: Callable[[ApiServerProxy, Callable[[ApiCall], bool]], Rule], *writes: str) -> Play:
    """Each of these writes meets the fault once."""

    async def play(scenario: Scenario) -> None:
        rules = [fault(scenario.proxy, _write(each)) for each in writes]
        await _life(scenario)
        assert [rule.hits for rule in rules] == [1] * len(rules)

    return play


def _for_a_while(status: int, matches: Callable[[ApiCall], bool]) -> Play:
    """Refused again and again, until somebody mends it."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        rule = scenario.proxy.answer(matches, status, times=None)
        await scenario.send(conversation, "Run: echo kept | tee /mnt/session/file")

        async def refused() -> bool:
            return rule.hits >= REPEATEDLY

        await eventually("the write is refused again and again", refused)
        scenario.proxy.remove(rule)
        assert "kept" in await conversation.answer()
        await scenario.settled(conversation)
        assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")

    return play


def _in_removal(fault: Callable[[ApiServerProxy, Callable[[ApiCall], bool]], Rule]) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        assert "done" in await scenario.say(conversation, "Run: echo done")
        await scenario.settled(conversation)
        rule = fault(scenario.proxy, _write("finalizer removed"))
        await delete(scenario, conversation)
        await rule.reached.wait()

    return play


async def _slow(scenario: Scenario) -> None:
    """The Lease's calls, whose times are scaled to a quarter, take a quarter of it."""
    scenario.proxy.slow(lambda call: call.resource == "leases", 0.25)
    scenario.proxy.slow(lambda call: call.resource != "leases", 1.0)
    await _life(scenario)


async def _events_refused(scenario: Scenario) -> None:
    rule = scenario.proxy.answer(lambda call: call.operation == "create events", 403, times=None)
    await _life(scenario)
    assert rule.hits, "it tried to post one"


def _conflict(proxy: ApiServerProxy, matches: Callable[[ApiCall], bool]) -> Rule:
    return proxy.answer(matches, 409)


def _lost(proxy: ApiServerProxy, matches: Callable[[ApiCall], bool]) -> Rule:
    return proxy.cut(matches, after_commit=True)


def _never_arrives(proxy: ApiServerProxy, matches: Callable[[ApiCall], bool]) -> Rule:
    return proxy.cut(matches)


def _breaks(proxy: ApiServerProxy, matches: Callable[[ApiCall], bool]) -> Rule:
    return proxy.answer(matches, 500)


ROWS = [
    *(
        Row(FAMILY, f"{write} meets a conflict", _once(_conflict, write), arrangement=QUEUE_ONLY)
        for write in WRITES
    ),
    Row(FAMILY, "each write's answer is lost once", _once(_lost, *WRITES), arrangement=QUEUE_ONLY),
    Row(FAMILY, "each write is lost once", _once(_never_arrives, *WRITES), arrangement=QUEUE_ONLY),
    Row(FAMILY, "each write is answered 500 once", _once(_breaks, *WRITES), arrangement=QUEUE_ONLY),
    Row(
        FAMILY,
        "the finalizer's removal meets a conflict",
        _in_removal(_conflict),
        arrangement=QUEUE_ONLY,
        outcome=Outcome(gone=True),
    ),
    Row(
        FAMILY,
        "the answer to the finalizer's removal is lost",
        _in_removal(_lost),
        arrangement=QUEUE_ONLY,
        outcome=Outcome(gone=True),
    ),
    *(
        Row(
            FAMILY,
            f"writes of the status are answered {status} for a while",
            _for_a_while(status, _is_status_write),
            arrangement=QUEUE_ONLY,
        )
        for status in (403, 422, 429, 500)
    ),
    Row(
        FAMILY,
        "all writes are answered 503 for a while",
        _for_a_while(503, lambda call: kubernetes_effect(call) is not None),
        arrangement=QUEUE_ONLY,
    ),
    Row(FAMILY, "the API server takes a second for each call", _slow, arrangement=QUEUE_ONLY),
    Row(FAMILY, "Events are refused", _events_refused, arrangement=QUEUE_ONLY),
]
