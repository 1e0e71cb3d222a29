"""Secrets by egress: gone and given back, rotated at bad moments, and rules whose way to E2B fails."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem

from ...support.arrangements import QUEUE_ONLY
from ...support.classes import delete_classes, make_class, only_sandbox
from ...support.held import WAIT, let_go
from ...support.sessions import becomes, condition
from ...support.waiting import eventually
from ..effects import Effect
from ..kubectl_actions import becomes_phase
from ..row import Row
from ..scenario import Scenario

FAMILY = "secrets"
HOST, HEADER = "api.example.com", "Authorization"
Play = Callable[[Scenario], Awaitable[None]]


async def _put(system: LocalSystem, value: str) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "stringData": {"token": value}}
    await system.kubectl("apply", "--filename=-", input=json.dumps(body))


async def _delete(system: LocalSystem) -> None:
    await system.kubectl("delete", "secret", "key", "--ignore-not-found")


async def _header(scenario: Scenario, conversation: Conversation) -> str | None:
    """What E2B adds to the sandbox's requests."""
    sandbox = await only_sandbox(scenario.system, conversation.session_id)
    rules: dict[str, Any] = sandbox.raw["network"].get("rules") or {}
    return next((each["transform"]["headers"][HEADER] for each in rules.get(HOST, ())), None)


async def _has(scenario: Scenario, conversation: Conversation, value: str) -> None:
    async def look() -> bool:
        return await _header(scenario, conversation) == value

    await eventually("the sandbox's requests get the value", look)


def _with_secret(play: Play) -> Play:
    """Play with a class for all sessions that has a secret, and without any class afterwards."""

    async def played(scenario: Scenario) -> None:
        system = scenario.system
        await _put(system, "first")
        reference = {"name": "key", "key": "token"}
        sandbox = {"secrets": [{"host": HOST, "header": HEADER, "secretRef": reference}]}
        spec = {"selector": {"agentIDs": [system.agent_id]}, "session": {"sandbox": sandbox}}
        try:
            await make_class(system, "with-secret", spec)
            await play(scenario)
        finally:
            await delete_classes(system)
            await _delete(system)

    return played


async def _running(scenario: Scenario) -> Conversation:
    """A session whose turn lasts until it is let go."""
    conversation = await scenario.begin()
    await scenario.send(conversation, f"Run: {WAIT}; echo answered")
    await becomes_phase(scenario, conversation, "Running")
    assert await _header(scenario, conversation) == "first"
    return conversation


async def _ends(scenario: Scenario, conversation: Conversation) -> None:
    let_go(await only_sandbox(scenario.system, conversation.session_id))
    assert "answered" in await conversation.answer()


async def _gone_in_a_turn(scenario: Scenario) -> None:
    """The turn goes on with the earlier value, and the resource says so until the Secret is there again."""
    conversation = await _running(scenario)
    system, session_id = scenario.system, conversation.session_id
    await _delete(system)

    async def told(reason: str | None) -> bool:
        return (await condition(system, session_id, "SecretsApplied")).get("reason") == reason

    await eventually("the resource says that it is gone", lambda: told("ReferenceInvalid"))
    assert await _header(scenario, conversation) == "first"
    await _put(system, "given back")
    await _has(scenario, conversation, "given back")
    await eventually("the resource says nothing more of it", lambda: told(None))
    await _ends(scenario, conversation)


async def _gone_before_a_turn(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    assert "first" in await scenario.say(conversation, "Run: echo first")
    await scenario.settled(conversation)
    await _delete(scenario.system)
    await scenario.send(conversation, "Run: echo second")
    await becomes(scenario.system, conversation.session_id, "ReferenceInvalid")
    await _put(scenario.system, "given back")
    assert "second" in await conversation.answer()
    assert await _header(scenario, conversation) == "given back"


async def _rotated_while_paused(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    assert "first" in await scenario.say(conversation, "Run: echo first")
    await scenario.settled(conversation)
    await scenario.system.operator.kill()
    await _put(scenario.system, "second")
    await scenario.system.operator.restart()
    await scenario.send(conversation, f"Run: {WAIT}; echo answered")
    await becomes_phase(scenario, conversation, "Running")
    assert await _header(scenario, conversation) == "second"
    await _ends(scenario, conversation)


def _rotated(action: dict[str, Any], times: int) -> Play:
    """The rules' way to E2B fails; they arrive in the end."""

    async def play(scenario: Scenario) -> None:
        conversation = await _running(scenario)
        await scenario.system.e2b_admin.add_fault("network", action, times=times)
        await _put(scenario.system, "second")
        await _has(scenario, conversation, "second")
        await _ends(scenario, conversation)

    return play


def _killed(*, after_commit: bool) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await _running(scenario)
        held = await scenario.hold(Effect("e2b", "network"), after_commit=after_commit)
        await _put(scenario.system, "second")
        await held.reached()
        await scenario.system.operator.kill()
        held.lose()
        await scenario.calm()
        await _put(scenario.system, "third")
        await scenario.system.operator.restart()
        await _has(scenario, conversation, "third")
        await _ends(scenario, conversation)

    return play


ROWS = [
    Row(FAMILY, name, _with_secret(play), arrangement=QUEUE_ONLY)
    for name, play in (
        ("a Secret is deleted under a running turn and given back", _gone_in_a_turn),
        ("a Secret is deleted before a turn and given back", _gone_before_a_turn),
        ("a Secret is rotated while the sandbox is paused and no operator runs", _rotated_while_paused),
        ("the rules with a rotated Secret are answered 500 twice", _rotated({"status": 500}, 2)),
        (
            "the answer to the rules with a rotated Secret is lost",
            _rotated({"action": "drop_after_commit"}, 1),
        ),
        ("the operator is killed before E2B takes a rotated Secret", _killed(after_commit=False)),
        ("the operator is killed after E2B has taken a rotated Secret", _killed(after_commit=True)),
    )
]
