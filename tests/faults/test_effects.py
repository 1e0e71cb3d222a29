"""Every effect of a session's life is cut by a row, before and after it took effect.

An effect is an outgoing call that changes something, as the proxy and the simulators have recorded it; so a
call that the product learns to make needs its rows.
"""

from __future__ import annotations

from typing import Any

import pytest

from ..support.arrangements import QUEUE_ONLY, SHORT_ANNOUNCEMENTS, SHORT_COUNTDOWN, USER_WAITS
from ..support.sessions import resource
from ..support.waiting import eventually
from . import verdict
from .effects import Effect, kubernetes_effect
from .families import user_waits
from .kubectl_actions import becomes_phase, delete, patch, status
from .row import Outcome, Row
from .scenario import Scenario
from .table import ROWS

FAMILY = "whole life"

E2B_READS = frozenset({"process_connect", "process_list"})
"""Sent with other methods than GET and yet only looks."""

UNHARMED_BEFORE = frozenset({Effect("anthropic", "work.poll")})
"""A poll that is lost before it took effect has offered nothing: there is nothing to be lost."""


async def _two_turns_suspended_and_deleted(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scenario.settled(conversation)
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")
    await scenario.settled(conversation)
    await patch(scenario, conversation, {"spec": {"lifecycle": {"suspend": True}}})
    await becomes_phase(scenario, conversation, "Suspended")
    await patch(scenario, conversation, {"spec": {"lifecycle": {"suspend": False}}})
    await scenario.send(conversation, "Run: sleep 60; echo never")
    await becomes_phase(scenario, conversation, "Running")
    await delete(scenario, conversation)


async def _a_long_turn(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    assert "answered" in await scenario.say(conversation, "Run: sleep 5; echo answered")


async def _suspended_in_a_turn_and_ended(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: sleep 60; echo never")
    await becomes_phase(scenario, conversation, "Running")
    await patch(scenario, conversation, {"spec": {"lifecycle": {"suspend": True}}})
    await scenario.settled(conversation)
    await becomes_phase(scenario, conversation, "Suspended")
    await scenario.system.anthropic_admin.terminate_session(conversation.session_id)

    async def ended() -> bool:
        return "endedAt" in await status(scenario, conversation)

    await eventually("the end is written down", ended)
    deleted = await scenario.begin()
    assert "done" in await scenario.say(deleted, "Run: echo done")
    await scenario.settled(deleted)
    await scenario.system.user.beta.sessions.delete(deleted.session_id)

    async def gone() -> bool:
        return not await resource(scenario.system, deleted.session_id)

    await eventually("the resource of the deleted session is gone", gone)


async def _a_wait(scenario: Scenario) -> None:
    conversation = await user_waits.ask(scenario)
    await user_waits.rests(scenario, conversation)
    await user_waits.allow(scenario, conversation)
    assert await conversation.answer() == "x"


LIVES = [
    Row(FAMILY, "a turn that waits for its user", _a_wait, arrangement=USER_WAITS),
    Row(FAMILY, "a long turn", _a_long_turn, arrangement=SHORT_COUNTDOWN),
    Row(
        FAMILY,
        "two turns, suspended, deleted in the third",
        _two_turns_suspended_and_deleted,
        arrangement=QUEUE_ONLY,
        outcome=Outcome(unanswered=1, gone=True),
    ),
    Row(
        FAMILY,
        "announced by webhook, suspended in the turn and ended; another one deleted",
        _suspended_in_a_turn_and_ended,
        arrangement=SHORT_ANNOUNCEMENTS,
        outcome=Outcome(unanswered=1),
    ),
]


class Recorder:
    """The calls that are made from its creation on.

    Args:
        scenario: whose calls.
        e2b: calls to E2B until now.
        anthropic: calls to Anthropic until now.
    """

    def __init__(self, scenario: Scenario, *, e2b: int, anthropic: int) -> None:
        self._scenario = scenario
        self._proxied = {pod: len(proxy.calls) for pod, proxy in scenario.proxies.items()}
        self._e2b, self._anthropic = e2b, anthropic

    async def effects(self) -> set[Effect]:
        """What operator and webhook have changed."""
        scenario = self._scenario
        to_kubernetes = {
            kubernetes_effect(call)
            for pod, proxy in scenario.proxies.items()
            for call in proxy.calls[self._proxied[pod] :]
        }
        to_e2b = {
            Effect("e2b", call["operation"])
            for call in (await _e2b_calls(scenario))[self._e2b :]
            if _changes_e2b(call)
        }
        to_anthropic = {
            Effect("anthropic", call["operation"])
            for call in (await _anthropic_calls(scenario))[self._anthropic :]
            if _changes_anthropic(call)
        }
        return {effect for effect in to_kubernetes if effect is not None} | to_e2b | to_anthropic


async def _e2b_calls(scenario: Scenario) -> list[dict[str, Any]]:
    return (await scenario.system.e2b_admin.ledger()).calls


async def _anthropic_calls(scenario: Scenario) -> list[dict[str, Any]]:
    return (await scenario.system.anthropic_admin.ledger()).calls


def _changes_e2b(call: dict[str, Any]) -> bool:
    return call["method"] != "GET" and call["operation"] not in E2B_READS


def _changes_anthropic(call: dict[str, Any]) -> bool:
    """Of the operator, which has the environment key; a worker has its session's token."""
    ours = call.get("credential") == "environment_key"
    return ours and (call["method"] != "GET" or call["operation"] == "work.poll")


def _cut(effect: Effect) -> set[bool]:
    """The sides of its commit on which some row cuts the effect."""
    return {row.cuts[1] for row in ROWS if row.cuts is not None and row.cuts[0] == effect}


@pytest.mark.parametrize("row", LIVES, ids=lambda row: row.name)
async def test_effects_of_a_life_are_all_cut_by_rows(row: Row, scenario: Scenario) -> None:
    recorder = Recorder(
        scenario, e2b=len(await _e2b_calls(scenario)), anthropic=len(await _anthropic_calls(scenario))
    )
    await row.play(scenario)
    await verdict.check(scenario, row.outcome)
    made = await recorder.effects()
    assert {effect.cloud for effect in made} == {"kubernetes", "e2b", "anthropic"}
    uncut = {
        f"{effect}, {'after' if after else 'before'}"
        for effect in made
        for after in {False, True} - _cut(effect)
        if after or effect not in UNHARMED_BEFORE
    }
    assert not uncut, "no row cuts these off"
