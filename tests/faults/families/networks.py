"""What lies between us and the clouds: connections die without a word, and networks are away for a while."""

from __future__ import annotations

from ...support.arrangements import USUAL
from ...support.held import let_go
from ...support.sessions import sandboxes_of
from ...support.waiting import eventually
from ..row import Play, Row
from ..scenario import Scenario
from .e2b_sandboxes import GATED, running_tool

FAMILY = "networks"
AWAY_SECONDS = 10


def _in_a_tool_call(
    *, worker: bool = False, anthropic: bool = False, e2b: bool = False, seconds: float = 0
) -> Play:
    """Connections are lost without a word while a command runs; its result and the next message arrive.

    Args of the row:
        worker: those of the sandbox, and the operator's stream from it.
        anthropic: all of Anthropic's, with workers and operators.
        e2b: all of E2B's, with operators.
        seconds: how long nobody can connect anew.
    """

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        sandbox = await running_tool(scenario, conversation, GATED)
        lost = 0
        if worker:
            lost += await scenario.system.e2b_admin.cut_silently(sandbox.id)
        if anthropic:
            lost += await scenario.system.anthropic_admin.lose_network(seconds)
        if e2b:
            lost += await scenario.system.e2b_admin.lose_network(seconds)
        assert lost
        let_go(sandbox)
        assert "finished" in await conversation.answer()
        assert "next" in await scenario.say(conversation, "Run: echo next")
        await _one_worker(scenario, conversation.session_id, 2)

    return play


async def _one_worker(scenario: Scenario, session_id: str, most: int) -> None:
    report = await scenario.system.anthropic_admin.session(session_id)
    assert report.counts["leases"] <= most, "no worker was given up"


async def _e2b_cuts_all_streams(scenario: Scenario) -> None:
    """E2B deploys its proxies anew, in the middle of a command."""
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation, GATED)
    assert await scenario.system.e2b_admin.lose_network(reset=True)
    let_go(sandbox)
    assert "finished" in await conversation.answer()
    await _one_worker(scenario, conversation.session_id, 1)


async def _pause_resets_connections(scenario: Scenario) -> None:
    """The other way in which a pause may leave connections."""
    await scenario.e2b_settings(cut_silently=False)
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation, GATED)
    await scenario.system.e2b_admin.expire(sandbox.id)

    async def resumed() -> bool:
        (each,) = await sandboxes_of(scenario.system, conversation.session_id)
        return each.state == "running" and each.resumes > 0

    await eventually("the sandbox is resumed", resumed)
    let_go(sandbox)
    assert "finished" in await conversation.answer()
    await _one_worker(scenario, conversation.session_id, 1)


async def _connections_at_rest(scenario: Scenario) -> None:
    """A NAT forgets what the operator has open to both clouds while nothing happens."""
    conversation = await scenario.begin()
    assert "one" in await scenario.say(conversation, "Run: echo one")
    await scenario.settled(conversation)
    assert await scenario.system.anthropic_admin.lose_network()
    assert await scenario.system.e2b_admin.lose_network()
    assert "two" in await scenario.say(conversation, "Run: echo two")


def _row(name: str, play: Play) -> Row:
    return Row(FAMILY, name, play, arrangement=USUAL)


ROWS = [
    _row("a sandbox's connections die silently in a tool call", _in_a_tool_call(worker=True)),
    _row("Anthropic's connections die silently in a tool call", _in_a_tool_call(anthropic=True)),
    _row("E2B's connections die silently in a tool call", _in_a_tool_call(e2b=True)),
    _row(
        "the network to Anthropic is away for ten seconds in a tool call",
        _in_a_tool_call(anthropic=True, seconds=AWAY_SECONDS),
    ),
    _row(
        "the network to E2B is away for ten seconds in a tool call",
        _in_a_tool_call(e2b=True, seconds=AWAY_SECONDS),
    ),
    _row(
        "both networks are away for ten seconds in a tool call",
        _in_a_tool_call(anthropic=True, e2b=True, seconds=AWAY_SECONDS),
    ),
    _row("E2B cuts all streams in a tool call", _e2b_cuts_all_streams),
    _row("a pause resets connections in a tool call", _pause_resets_connections),
    _row("all connections at rest die silently between two turns", _connections_at_rest),
]
