"""The user interrupts the session, before, during or after a tool call."""

from __future__ import annotations

from ...support.sessions import resource
from ..anthropic_side import polls_fail, tool_runs, user_sends, waits_for_tool
from ..kubectl_actions import wait_long_for_messages
from ..row import Row
from ..scenario import Scenario

FAMILY = "anthropic worker"


async def _interrupted(scenario: Scenario) -> None:
    """The user interrupts a tool call."""
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: sleep 600.41; echo never")
    await tool_runs(scenario, conversation, "sleep 600.41")
    await user_sends(scenario, conversation, type="user.interrupt")
    assert "next" in await scenario.say(conversation, "Run: echo next")


async def _interrupted_then_paused(scenario: Scenario) -> None:
    """The next worker finds in the history a call without a result, which nobody waits for."""
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: echo x >> runs; sleep 600.43")
    await tool_runs(scenario, conversation, "sleep 600.43")
    await user_sends(scenario, conversation, type="user.interrupt")
    await scenario.settled(conversation)
    # The interrupted command has cost its shell, and the first answer after it says so.
    note, *runs = (await scenario.say(conversation, "Run: cat runs")).splitlines()
    assert (note.startswith("[a new shell in "), runs) == (True, ["x"])
    await scenario.settled(conversation)
    assert (await scenario.say(conversation, "Run: cat runs")).split() == ["x"]
    await scenario.settled(conversation)


async def _interrupted_while_idling(scenario: Scenario) -> None:
    """The interrupt comes just after the answer. No run follows it, and the worker leaves all the same."""
    conversation = await scenario.begin()
    await wait_long_for_messages(scenario, conversation)
    assert "one" in await scenario.say(conversation, "Run: echo one")
    await user_sends(scenario, conversation, type="user.interrupt")
    await scenario.settled(conversation)
    work = (await resource(scenario.system, conversation.session_id))["status"]["work"]
    assert work["exitReason"] == "Idle"
    assert "two" in await scenario.say(conversation, "Run: echo two")


async def _interrupted_before_claim(scenario: Scenario) -> None:
    """The user interrupts before anybody has claimed the work."""
    await polls_fail(scenario)
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: echo never")
    await waits_for_tool(scenario, conversation)
    await user_sends(scenario, conversation, type="user.interrupt")
    await scenario.send(conversation, "Run: echo next")
    await scenario.calm()
    assert "next" in await conversation.answer()


ROWS = [
    Row(FAMILY, "the user interrupts a tool call", _interrupted),
    Row(FAMILY, "the user interrupts a tool call, and speaks after the pause", _interrupted_then_paused),
    Row(FAMILY, "the user interrupts an idle session", _interrupted_while_idling),
    Row(FAMILY, "the user interrupts before the claim", _interrupted_before_claim),
]
