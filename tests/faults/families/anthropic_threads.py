"""Sub-agents' threads, and results that Anthropic refuses in passing: each call is executed once."""

from __future__ import annotations

import json
from typing import Any

from managed_session_cli.conversation import Conversation

from ..anthropic_side import (
    WORKER,
    Fault,
    Play,
    answered,
    tool_runs,
    user_sends,
    with_work_settings,
    worker_dies,
)
from ..row import Outcome, Row
from ..scenario import Scenario

FAMILY = "anthropic threads"

SHORT_LEASE = {"lease_ttl_seconds": 3}
GIVEN_AGAIN = Outcome(results_posted_again=20)
"""A result that is refused in passing is given again until it is taken."""

COUNT = {"tool": "bash", "input": {"command": "wc -l < runs"}}


def _call(command: str) -> dict[str, Any]:
    return {"tool": "bash", "input": {"command": f"echo run >> runs; {command}"}}


def _script(*steps: dict[str, Any]) -> str:
    return json.dumps({"script": [*steps, COUNT, {"say": "{result} runs"}]})


async def _thread_calls_settle(scenario: Scenario, milliseconds: float) -> None:
    await scenario.system.anthropic_admin.change_settings(events={"thread_calls_settle_ms": milliseconds})


async def _refused_in_passing(scenario: Scenario) -> None:
    """The result of a call is refused three times, and taken then."""
    conversation = await scenario.begin()
    struck = await Fault("events.send", answered(400), times=3, match=WORKER).inject(scenario)
    assert await scenario.say(conversation, _script(_call("echo one"))) == "1 runs"
    assert await struck.count() == 3


async def _sub_agent_refused(scenario: Scenario) -> None:
    """Results of two sub-agents are refused for two seconds after each call."""
    conversation = await scenario.begin()
    await _thread_calls_settle(scenario, 2000)
    try:
        threads = [[_call("echo one"), _call("echo two")], [_call("echo three")]]
        assert await scenario.say(conversation, _script({"threads": threads})) == "3 runs"
    finally:
        await _thread_calls_settle(scenario, 0)


async def _sub_agent_behind_a_thinker(scenario: Scenario) -> None:
    """The session runs on while one of its sub-agents waits for a result that is refused for a while."""
    conversation = await scenario.begin()
    await _thread_calls_settle(scenario, 2000)
    try:
        threads = [[_call("echo one")], [{"sleep_ms": 6000}]]
        assert await scenario.say(conversation, _script({"threads": threads})) == "1 runs"
    finally:
        await _thread_calls_settle(scenario, 0)


async def _dies_in_a_sub_agents_call(scenario: Scenario) -> None:
    """The worker dies in the call of a sub-agent while another one thinks: the next worker makes it."""
    conversation = await scenario.begin()
    slow = {
        "tool": "bash",
        "input": {"command": "test -e begun || { touch begun; sleep 60.37; }; echo run >> runs"},
    }
    await scenario.send(conversation, _script({"threads": [[slow], [{"sleep_ms": 15_000}]]}))
    await tool_runs(scenario, conversation, "sleep 60.37")
    await worker_dies(scenario, conversation)
    assert await conversation.answer() == "1 runs"


def _three(command: str) -> str:
    """A message for which three sub-agents make a call each, at the same time."""
    return _script({"threads": [[_slow(command, number)] for number in (1, 2, 3)]})


def _slow(command: str, number: int) -> dict[str, Any]:
    wait = f"test -e begun{number} || {{ touch begun{number}; {command}{number}; }}"
    return {"tool": "bash", "input": {"command": f"{wait}; echo run >> runs"}}


async def _dies_in_calls_of_three(scenario: Scenario) -> None:
    """The worker dies while the calls of three sub-agents run: the next worker makes all of them again."""
    conversation = await scenario.begin()
    await scenario.send(conversation, _three("sleep 61.4"))
    for number in (1, 2, 3):
        await tool_runs(scenario, conversation, f"sleep 61.4{number}")
    await worker_dies(scenario, conversation)
    assert await conversation.answer() == "3 runs"


async def _operator_dies_in_calls_of_three(scenario: Scenario) -> None:
    """The operator dies while the calls of three sub-agents run: their worker goes on."""
    conversation = await scenario.begin()
    await scenario.send(conversation, _three("sleep 4.5"))
    for number in (1, 2, 3):
        await tool_runs(scenario, conversation, f"sleep 4.5{number}")
    await scenario.system.operator.kill()
    await scenario.system.operator.restart()
    assert await conversation.answer() == "3 runs"
    await scenario.settled(conversation)


async def _all_interrupted(scenario: Scenario) -> None:
    """The user interrupts while the calls of three sub-agents run, and sends the next message."""
    conversation = await scenario.begin()
    await scenario.send(conversation, _three("sleep 600.4"))
    for number in (1, 2, 3):
        await tool_runs(scenario, conversation, f"sleep 600.4{number}")
    await user_sends(scenario, conversation, type="user.interrupt")
    assert await _next(scenario, conversation)


async def _thread_over(scenario: Scenario) -> None:
    """A sub-agent's thread is over for good after its call, and the turn goes on."""
    conversation = await scenario.begin()
    thread = [_call("echo one"), {"terminate": True}]
    assert await scenario.say(conversation, _script({"thread": thread})) == "1 runs"
    await scenario.settled(conversation)
    assert await _next(scenario, conversation)


async def _next(scenario: Scenario, conversation: Conversation) -> bool:
    return "next" in await scenario.say(conversation, "Run: echo next")


def _row(name: str, play: Play, outcome: Outcome = Outcome()) -> Row:  # noqa: B008 - immutable
    return Row(FAMILY, name, with_work_settings(play, **SHORT_LEASE), outcome=outcome)


ROWS = [
    _row("a result is refused three times in passing", _refused_in_passing),
    _row("results of sub-agents are refused for two seconds", _sub_agent_refused, GIVEN_AGAIN),
    _row(
        "a sub-agent's result is refused in passing while the session runs on",
        _sub_agent_behind_a_thinker,
        GIVEN_AGAIN,
    ),
    _row("the worker dies in a sub-agent's call", _dies_in_a_sub_agents_call),
    _row("the worker dies while calls of three sub-agents run", _dies_in_calls_of_three),
    _row("the operator is killed while calls of three sub-agents run", _operator_dies_in_calls_of_three),
    _row("the user interrupts calls of three sub-agents", _all_interrupted),
    _row("a sub-agent's thread ends for good", _thread_over),
]
