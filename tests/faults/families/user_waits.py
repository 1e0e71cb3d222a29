"""A session waits for its user in a paused sandbox: the answer comes, or the operator dies, at any point."""

from __future__ import annotations

import json
from typing import Any

from managed_session_cli.conversation import Conversation

from ...support.arrangements import USER_WAITS
from ...support.sessions import resource
from ...support.waiting import eventually
from ..anthropic_side import waits_for_tool
from ..effects import Effect
from ..row import Play, Row
from ..scenario import Scenario

FAMILY = "user waits"
WAIT_PAUSED, WAIT_RESUMED = (
    Effect("kubernetes", "status: wait paused"),
    Effect("kubernetes", "status: wait resumed"),
)
ASK = {"tool": "bash", "input": {"command": "echo x >> runs; cat runs"}, "permission": "ask"}


async def ask(scenario: Scenario) -> Conversation:
    """Send a message whose turn waits for its user to allow a command."""
    conversation = await scenario.begin()
    script = {"script": [ASK, {"say": "{result}"}]}
    await scenario.send(conversation, json.dumps(script))
    await waits_for_tool(scenario, conversation)
    return conversation


async def allow(scenario: Scenario, conversation: Conversation) -> None:
    """Allow the call that the session waits for."""
    report = await scenario.system.anthropic_admin.session(conversation.session_id)
    events: Any = [
        {"type": "user.tool_confirmation", "tool_use_id": each, "result": "allow"}
        for each in report.waiting_for
    ]
    await scenario.system.user.beta.sessions.events.send(conversation.session_id, events=events)


async def rests(scenario: Scenario, conversation: Conversation) -> None:
    """Wait until the resource says that the sandbox is paused because of the wait."""

    async def look() -> bool:
        status = (await resource(scenario.system, conversation.session_id)).get("status", {})
        paused = status.get("sandbox", {}).get("state") == "Paused"
        return paused and "waitPausedAt" in status.get("work", {})

    await eventually("it waits in a paused sandbox", look)


async def answered_once(scenario: Scenario, conversation: Conversation) -> None:
    """The allowed call runs once, whoever served it, and the next message is served as ever."""
    assert (await conversation.answer()).split() == ["x"]
    await scenario.settled(conversation)
    assert "next" in await scenario.say(conversation, "Run: echo next")


def _answered_at(operation: str, *, after_commit: bool) -> Play:
    """The answer comes while E2B pauses the sandbox, before or after the machine is saved."""

    async def play(scenario: Scenario) -> None:
        action = {"action": "hang_after_commit" if after_commit else "hang", "seconds": 60}
        fault = await scenario.system.e2b_admin.add_fault(operation, action)
        conversation = await ask(scenario)

        async def hit() -> bool:
            faults = await scenario.system.e2b_admin.faults()
            return any(each["hits"] for each in faults if each["id"] == fault["id"])

        await eventually("the call is held", hit)
        await allow(scenario, conversation)
        await scenario.system.e2b_admin.clear_faults()
        await answered_once(scenario, conversation)

    return play


async def _interrupted_during_the_resume(scenario: Scenario) -> None:
    """The user allows the call, thinks again, and interrupts the turn while the sandbox is resumed."""
    conversation = await ask(scenario)
    await rests(scenario, conversation)
    fault = await scenario.system.e2b_admin.add_fault(
        "connect", {"action": "hang_after_commit", "seconds": 60}
    )
    await allow(scenario, conversation)

    async def hit() -> bool:
        faults = await scenario.system.e2b_admin.faults()
        return any(each["hits"] for each in faults if each["id"] == fault["id"])

    await eventually("the resume is held", hit)
    interrupt: Any = [{"type": "user.interrupt"}]
    await scenario.system.user.beta.sessions.events.send(conversation.session_id, events=interrupt)
    await scenario.system.e2b_admin.clear_faults()
    await scenario.settled(conversation)
    assert "next" in await scenario.say(conversation, "Run: echo next")


async def _answered_without_operator(scenario: Scenario) -> None:
    """The lease lapses and the answer comes while no operator is there."""
    conversation = await ask(scenario)
    await rests(scenario, conversation)
    await scenario.system.operator.kill()

    async def lapsed() -> bool:
        report = await scenario.system.anthropic_admin.session(conversation.session_id)
        return report.counts["leases_lapsed"] > 0

    await eventually("the lease has lapsed", lapsed)
    await allow(scenario, conversation)
    await scenario.system.operator.restart()
    await answered_once(scenario, conversation)


def _killed_at(effect: Effect, *, after_commit: bool) -> Row:
    """The operator dies as it records the pause, or the resume."""

    async def play(scenario: Scenario) -> None:
        resumes = effect == WAIT_RESUMED
        held = None if resumes else await scenario.hold(effect, after_commit=after_commit)
        conversation = await ask(scenario)
        if held is None:
            await rests(scenario, conversation)
            held = await scenario.hold(effect, after_commit=after_commit)
            await allow(scenario, conversation)
        await held.reached()
        await scenario.system.operator.kill()
        held.lose()
        await scenario.calm()
        if not resumes:
            await allow(scenario, conversation)
        await scenario.system.operator.restart()
        await answered_once(scenario, conversation)

    when = "after" if after_commit else "before"
    what = "resume" if effect == WAIT_RESUMED else "pause"
    name = f"the operator is killed {when} the {what} is written down"
    return Row(FAMILY, name, play, USER_WAITS, cuts=(effect, after_commit))


def _row(name: str, play: Play) -> Row:
    return Row(FAMILY, name, play, USER_WAITS)


ROWS = [
    _row("the answer comes as the pause is asked for", _answered_at("pause", after_commit=False)),
    _row("the answer comes as E2B has paused the sandbox", _answered_at("pause", after_commit=True)),
    _row("the user interrupts the turn during the resume", _interrupted_during_the_resume),
    _row("the lease lapses and the answer comes without an operator", _answered_without_operator),
    *(
        _killed_at(effect, after_commit=after)
        for effect in (WAIT_PAUSED, WAIT_RESUMED)
        for after in (False, True)
    ),
]
