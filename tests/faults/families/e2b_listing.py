"""E2B's listing: late, with holes, with repetitions. Whom it misses is neither lost nor made twice."""

from __future__ import annotations

import asyncio
from typing import Any

from managed_session_cli.conversation import Conversation

from ...support.arrangements import SHORT_LIMITS
from ...support.held import let_go
from ...support.sessions import condition, resyncs_pass, sandboxes_of
from ..row import Play, Row
from ..scenario import Scenario
from .e2b_sandboxes import GATED, running_tool

FAMILY = "E2B listing"
LISTINGS = 6
"""Calls of some resyncs, of a page each."""


async def _two_sessions(scenario: Scenario) -> list[Conversation]:
    conversations = [await scenario.begin() for _ in range(2)]
    command = "Run: echo kept | tee /mnt/session/file"
    answers = await asyncio.gather(*(scenario.say(each, command) for each in conversations))
    assert all("kept" in answer for answer in answers)
    return conversations


async def _all_served_as_before(scenario: Scenario, conversations: list[Conversation]) -> None:
    answers = await asyncio.gather(*(scenario.say(each, "Run: cat file") for each in conversations))
    assert all("kept" in answer for answer in answers)
    for conversation in conversations:
        assert len(await sandboxes_of(scenario.system, conversation.session_id)) == 1, "the same sandbox"
        lost = await condition(scenario.system, conversation.session_id, "WorkspaceLost")
        assert lost.get("status") != "True", "nothing was lost"


def _listings_meet(action: dict[str, Any] | str, **settings: Any) -> Play:
    async def play(scenario: Scenario) -> None:
        conversations = await _two_sessions(scenario)
        await scenario.e2b_settings(**settings)
        await scenario.system.e2b_admin.add_fault("list", action, times=100)
        await resyncs_pass(scenario.system, LISTINGS)
        await _all_served_as_before(scenario, conversations)

    return play


async def _hidden_while_it_runs(scenario: Scenario) -> None:
    """A sandbox is left out of listings while it is being snapshotted; its worker goes on."""
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation, GATED)
    await scenario.system.e2b_admin.hide(sandbox.id, 3600)
    await resyncs_pass(scenario.system, LISTINGS)
    let_go(sandbox)
    assert "finished" in await conversation.answer()
    assert len(await sandboxes_of(scenario.system, conversation.session_id)) == 1


async def _hidden_while_it_is_paused(scenario: Scenario) -> None:
    conversations = await _two_sessions(scenario)
    for conversation in conversations:
        (sandbox,) = await sandboxes_of(scenario.system, conversation.session_id)
        await scenario.system.e2b_admin.hide(sandbox.id, 3600)
    await resyncs_pass(scenario.system, LISTINGS)
    await _all_served_as_before(scenario, conversations)


async def _shown_twice(scenario: Scenario) -> None:
    conversations = await _two_sessions(scenario)
    for conversation in conversations:
        (sandbox,) = await sandboxes_of(scenario.system, conversation.session_id)
        await scenario.system.e2b_admin.duplicate(sandbox.id, 100)
    await resyncs_pass(scenario.system, LISTINGS)
    await _all_served_as_before(scenario, conversations)


async def _create_is_listed_late(scenario: Scenario) -> None:
    """Each sandbox is listed seconds after it was made: nobody takes it for one that has vanished."""
    await scenario.e2b_settings(list_lag_seconds=5)
    conversations = await _two_sessions(scenario)
    await _all_served_as_before(scenario, conversations)


def _row(name: str, play: Play) -> Row:
    return Row(FAMILY, name, play, arrangement=SHORT_LIMITS)


ROWS = [
    _row("creates are listed late", _create_is_listed_late),
    _row("a page is missing", _listings_meet("page_missing", list_page_size=1)),
    _row("a page's token is lost", _listings_meet("page_token_lost", list_page_size=1)),
    _row("listings are refused", _listings_meet({"status": 500})),
    _row("listings are answered 429", _listings_meet({"status": 429, "headers": {"Retry-After": "1"}})),
    _row("sandboxes are shown twice", _shown_twice),
    _row("a sandbox is not shown while its worker runs", _hidden_while_it_runs),
    _row("paused sandboxes are not shown", _hidden_while_it_is_paused),
]
