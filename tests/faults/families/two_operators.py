"""Leadership that changes at bad moments; and what a leader that was frozen or cut off still sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.pod import Pod

from ...support.arrangements import TWO_OPERATORS
from ...support.leaders import leader
from ...support.sessions import resource
from ...support.waiting import eventually
from ..effects import Effect
from ..kubectl_actions import becomes_phase, delete, status
from ..row import Outcome, Row
from ..scenario import Late, Scenario

FAMILY = "two operators"

Play = Callable[[Scenario], Awaitable[None]]


def _kubernetes(name: str) -> Effect:
    return Effect("kubernetes", name)


FIRST_TURN = [
    _kubernetes("create managedsessions"),
    _kubernetes("create secrets"),
    _kubernetes("status: claim"),
    Effect("e2b", "create"),
    _kubernetes("status: sandbox ID"),
    Effect("anthropic", "work.ack"),
    _kubernetes("status: acknowledged"),
    Effect("e2b", "files_write"),
    Effect("e2b", "process_start"),
    _kubernetes("delete secrets"),
    _kubernetes("status: heartbeat"),
    Effect("e2b", "pause"),
    _kubernetes("identity"),
    _kubernetes("status: finished"),
]
"""What a leader may be about to send in a session's first turn."""

OF_A_STEP = [
    Effect("e2b", "create"),
    Effect("anthropic", "work.ack"),
    Effect("e2b", "process_start"),
    Effect("e2b", "pause"),
]
"""Calls to a cloud in whose middle the Lease is lost."""

REMOVAL = [Effect("e2b", "kill"), _kubernetes("finalizer removed")]


async def _send_and_hold(scenario: Scenario, conversation: Conversation, effect: Effect, first: Pod) -> Late:
    """Send a message, and keep back the leader's call that it leads to."""
    held = await scenario.hold_for_later(effect, first.name)
    await scenario.send(conversation, "Run: echo kept | tee /mnt/session/file")
    await held.reached()
    return held


async def _serve_beside(
    scenario: Scenario, conversation: Conversation, late: Callable[[], Awaitable[None]]
) -> None:
    """The new leader serves the turn and has begun another one when the late effect arrives."""
    assert "kept" in await conversation.answer()
    turns = (await status(scenario, conversation)).get("turns", 0)
    await scenario.send(conversation, "Run: sleep 5; cat /mnt/session/file")

    async def works() -> bool:
        now = await status(scenario, conversation)
        return now.get("phase") == "Running" and now.get("turns", 0) >= turns

    await eventually("a worker runs for the second message", works)
    await late()
    assert "kept" in await conversation.answer()
    await scenario.settled(conversation)
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")


def _thawed(effect: Effect, *, first_turn: bool = True) -> Play:
    """The leader is frozen in the middle of a call, which arrives when the other one has taken over."""

    async def play(scenario: Scenario) -> None:
        first = await leader(scenario.system)
        conversation = await scenario.begin()
        if not first_turn:
            assert "done" in await scenario.say(conversation, "Run: echo done")
            await scenario.settled(conversation)
        held = await _send_and_hold(scenario, conversation, effect, first)
        first.process.freeze()
        try:
            await leader(scenario.system, other_than=first)

            async def late() -> None:
                await held.arrive()
                first.process.thaw()

            await _serve_beside(scenario, conversation, late)
        finally:
            first.process.thaw()

    return play


def _cut_off(effect: Effect) -> Play:
    """The Lease is lost in the middle of a step: the leader reaches the clouds and no API server."""

    async def play(scenario: Scenario) -> None:
        first = await leader(scenario.system)
        conversation = await scenario.begin()
        held = await _send_and_hold(scenario, conversation, effect, first)
        async with scenario.proxies[first.name].partitioned():
            await leader(scenario.system, other_than=first)
            await _serve_beside(scenario, conversation, held.arrive)

    return play


def _thawed_in_removal(effect: Effect) -> Play:
    """The session lives on in a new resource when the late effect of the old one's removal arrives."""

    async def play(scenario: Scenario) -> None:
        first = await leader(scenario.system)
        conversation = await scenario.begin()
        assert "done" in await scenario.say(conversation, "Run: echo done")
        await scenario.settled(conversation)
        held = await scenario.hold_for_later(effect, first.name)
        await delete(scenario, conversation)
        await held.reached()
        first.process.freeze()
        try:
            await leader(scenario.system, other_than=first)

            async def gone() -> bool:
                return not await resource(scenario.system, conversation.session_id)

            await eventually("the resource is gone", gone)
            await scenario.send(conversation, "Run: sleep 5; echo served anew")
            await becomes_phase(scenario, conversation, "Running")
            await held.arrive()
        finally:
            first.process.thaw()
        assert "served anew" in await conversation.answer()

    return play


def _ends_in_a_turn(*, kill: bool) -> Play:
    async def play(scenario: Scenario) -> None:
        first = await leader(scenario.system)
        conversation = await scenario.begin()
        await scenario.send(conversation, "Run: echo kept > /mnt/session/file; sleep 5; echo answered")
        await becomes_phase(scenario, conversation, "Running")
        await first.process.stop(kill=kill)
        await leader(scenario.system, other_than=first)
        assert "answered" in await conversation.answer()
        await scenario.settled(conversation)
        await first.restart()
        assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")

    return play


async def _handed_over_again_and_again(scenario: Scenario) -> None:
    """Each turn meets another leader."""
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
    for _ in range(3):
        first = await leader(scenario.system)
        await scenario.send(conversation, "Run: cat /mnt/session/file")
        await first.restart()
        assert "kept" in await conversation.answer()


def _row(name: str, play: Play, outcome: Outcome = Outcome()) -> Row:  # noqa: B008 - immutable
    return Row(FAMILY, name, play, arrangement=TWO_OPERATORS, outcome=outcome)


ROWS = [
    _row("the leader is stopped in the middle of a turn", _ends_in_a_turn(kill=False)),
    _row("the leader is killed in the middle of a turn", _ends_in_a_turn(kill=True)),
    _row("the leader is replaced in each turn", _handed_over_again_and_again),
    *(
        _row(f"the leader loses its Lease while {effect} is on its way", _cut_off(effect))
        for effect in OF_A_STEP
    ),
    *(_row(f"{effect} of a frozen leader arrives late", _thawed(effect)) for effect in FIRST_TURN),
    _row(
        "e2b: connect of a frozen leader arrives late",
        _thawed(Effect("e2b", "connect"), first_turn=False),
    ),
    *(
        _row(
            f"{effect} of a frozen leader arrives late, for a resource that is gone",
            _thawed_in_removal(effect),
            Outcome(sandboxes=2),
        )
        for effect in REMOVAL
    ),
]
