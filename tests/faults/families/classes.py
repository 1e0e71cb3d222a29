"""A session's class changes, goes or gets a rival: under its running turn, and at each point of a claim."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem

from ...support.arrangements import QUEUE_ONLY
from ...support.classes import (
    DENIED,
    apply_class,
    change_class,
    class_known,
    delete_classes,
    denied,
    effective,
    only_sandbox,
    policy_says,
)
from ...support.held import WAIT, let_go
from ...support.sessions import condition
from ...support.waiting import eventually
from ..effects import Effect
from ..kubectl_actions import becomes_phase, status
from ..row import Row
from ..scenario import Scenario
from .operator_killed import FIRST_TURN, SECOND_TURN

FAMILY = "classes"

Happens = Callable[[LocalSystem], Awaitable[None]]
Play = Callable[[Scenario], Awaitable[None]]

OTHER = "203.0.113.0/24"


def _gold(system: LocalSystem, team: str, *deny: str) -> dict[str, Any]:
    sandbox = {"metadata": {"team": team}, "network": {"deny": list(deny)}}
    return {"selector": {"agentIDs": [system.agent_id]}, "session": {"sandbox": sandbox}}


async def _changed(system: LocalSystem) -> None:
    """Change what waits for the next sandbox, and what does not."""
    await apply_class(system, "gold", _gold(system, "second", OTHER))


async def _deleted(system: LocalSystem) -> None:
    await delete_classes(system, "gold")


async def _made_ambiguous(system: LocalSystem) -> None:
    """Make a rival that selects by the agent's name, so that only the operator sees the tie."""
    agent = await system.user.beta.agents.retrieve(system.agent_id)
    await apply_class(system, "rival", {"selector": {"agentNames": [agent.name]}})


HAPPENINGS: dict[str, Happens] = {
    "changed": _changed,
    "deleted": _deleted,
    "made ambiguous": _made_ambiguous,
}


def with_class(play: Play) -> Play:
    """Play with a class for all sessions, and without any class afterwards."""

    async def played(scenario: Scenario) -> None:
        system = scenario.system
        await apply_class(system, "gold", _gold(system, "first", DENIED))
        try:
            await class_known(system, "gold")
            await play(scenario)
        finally:
            await delete_classes(system)

    return played


async def _decided(scenario: Scenario, conversation: Conversation) -> None:
    """If nothing decides between two classes, decide it as a platform team would."""

    async def claimed_or_held_back() -> bool:
        ready = await condition(scenario.system, conversation.session_id)
        work = (await status(scenario, conversation)).get("work", {})
        return ready.get("reason") == "AmbiguousClass" or "acknowledgedAt" in work

    await eventually("it is served or says why not", claimed_or_held_back)
    ready = await condition(scenario.system, conversation.session_id)
    if ready.get("reason") == "AmbiguousClass":
        await change_class(scenario.system, "rival", precedence=1)


async def _is_as_its_status_says(scenario: Scenario, conversation: Conversation) -> None:
    """The sandbox has what the status says, network rules included."""
    system, session_id = scenario.system, conversation.session_id
    await scenario.settled(conversation)
    sandbox, values = await only_sandbox(system, session_id), await effective(system, session_id)
    if "origins" in values:
        assert sandbox.metadata.get("team") == values["metadata"].get("team")
        assert await denied(system, session_id) == values["network"]["deny"]
    else:
        assert not await denied(system, session_id), "no class, no rules"


def _at(effect: Effect, happens: Happens, *, second_turn: bool) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        if second_turn:
            assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
            await scenario.settled(conversation)
            await becomes_phase(scenario, conversation, "Idle")
        held = await scenario.hold(effect, after_commit=False)
        await scenario.send(conversation, "Run: echo served | tee -a /mnt/session/file")
        await held.reached()
        await happens(scenario.system)
        await scenario.system.operator.kill()
        held.lose()
        await scenario.calm()
        await scenario.system.operator.restart()
        await _decided(scenario, conversation)
        assert "served" in await conversation.answer()
        await _is_as_its_status_says(scenario, conversation)
        assert "served" in await scenario.say(conversation, "Run: cat /mnt/session/file")
        await _is_as_its_status_says(scenario, conversation)

    return with_class(play)


def _under_a_running_turn(happens: Happens) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        await scenario.send(conversation, f"Run: {WAIT}; echo answered")
        await becomes_phase(scenario, conversation, "Running")
        await happens(scenario.system)
        if happens is _changed:
            assert "metadata" in await policy_says(scenario.system, conversation.session_id, "ClassChanged")
            assert await denied(scenario.system, conversation.session_id) == [OTHER]
        let_go(await only_sandbox(scenario.system, conversation.session_id))
        assert "answered" in await conversation.answer()
        await _is_as_its_status_says(scenario, conversation)
        assert "next" in await scenario.say(conversation, "Run: echo next")
        await _is_as_its_status_says(scenario, conversation)

    return with_class(play)


def _killed_at_the_network(*, after_commit: bool) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        await scenario.send(conversation, f"Run: {WAIT}; echo answered")
        await becomes_phase(scenario, conversation, "Running")
        held = await scenario.hold(Effect("e2b", "network"), after_commit=after_commit)
        await _changed(scenario.system)
        await held.reached()
        await scenario.system.operator.kill()
        held.lose()
        await scenario.calm()
        await scenario.system.operator.restart()

        async def applied() -> bool:
            values = await effective(scenario.system, conversation.session_id)
            return bool(values["network"]["deny"] == [OTHER])

        await eventually("the status says that the rules are in force", applied)
        assert await denied(scenario.system, conversation.session_id) == [OTHER]
        let_go(await only_sandbox(scenario.system, conversation.session_id))
        assert "answered" in await conversation.answer()

    return with_class(play)


async def _network_refused(scenario: Scenario) -> None:
    """A worker starts only under the rules that its class has now."""
    conversation = await scenario.begin()
    assert "first" in await scenario.say(conversation, "Run: echo first")
    await scenario.settled(conversation)
    await scenario.system.e2b_admin.add_fault("network", {"status": 500}, times=100)
    await _changed(scenario.system)
    await scenario.send(conversation, "Run: echo second")
    await eventually("the rules are refused", lambda: _asked(scenario))
    starts = len((await scenario.system.e2b_admin.ledger(operation="process_start")).calls)
    await eventually("they are tried again", lambda: _asked(scenario, times=3))
    assert len((await scenario.system.e2b_admin.ledger(operation="process_start")).calls) == starts
    await scenario.calm()
    assert "second" in await conversation.answer()
    assert await denied(scenario.system, conversation.session_id) == [OTHER]


async def _asked(scenario: Scenario, times: int = 1) -> bool:
    return len((await scenario.system.e2b_admin.ledger(operation="network")).calls) >= times


async def _recreated(scenario: Scenario) -> None:
    """A class of the same name is another class."""
    conversation = await scenario.begin()
    assert "first" in await scenario.say(conversation, "Run: echo first")
    await scenario.settled(conversation)
    before = (await status(scenario, conversation))["class"]["uid"]
    await delete_classes(scenario.system, "gold")
    await _changed(scenario.system)
    await class_known(scenario.system, "gold")
    assert "second" in await scenario.say(conversation, "Run: echo second")
    assert (await status(scenario, conversation))["class"]["uid"] != before
    await _is_as_its_status_says(scenario, conversation)


def _rows(effects: list[Effect], when: str, *, second_turn: bool) -> list[Row]:
    return [
        Row(
            FAMILY,
            f"a class is {name}, and the operator killed, in {when} before {effect} took effect",
            _at(effect, happens, second_turn=second_turn),
            arrangement=QUEUE_ONLY,
        )
        for effect in effects
        for name, happens in HAPPENINGS.items()
    ]


_CLAIM = FIRST_TURN[: FIRST_TURN.index(Effect("kubernetes", "status: heartbeat")) + 1]

ROWS = [
    *_rows(_CLAIM, "the first turn", second_turn=False),
    *_rows(SECOND_TURN, "the second turn", second_turn=True),
    *(
        Row(
            FAMILY,
            f"a class is {name} under a running turn",
            _under_a_running_turn(happens),
            arrangement=QUEUE_ONLY,
        )
        for name, happens in HAPPENINGS.items()
    ),
    *(
        Row(
            FAMILY,
            f"killed {'after' if after_commit else 'before'} new network rules took effect",
            _killed_at_the_network(after_commit=after_commit),
            arrangement=QUEUE_ONLY,
            cuts=(Effect("e2b", "network"), after_commit),
        )
        for after_commit in (False, True)
    ),
    Row(FAMILY, "E2B refuses new network rules", with_class(_network_refused), arrangement=QUEUE_ONLY),
    Row(
        FAMILY,
        "a class is deleted and made again between two turns",
        with_class(_recreated),
        arrangement=QUEUE_ONLY,
    ),
]
