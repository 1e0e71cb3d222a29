"""E2B's machines that crash or are lost at a pause, and answers that make a sandbox look gone."""

from __future__ import annotations

from typing import Any

from managed_session_cli.conversation import Conversation
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox

from ...support.arrangements import SHORT_LIMITS
from ...support.held import let_go
from ...support.sessions import condition, resyncs_pass, sandboxes_of, warned
from ...support.waiting import eventually
from ..row import Outcome, Play, Row
from ..scenario import Scenario
from .e2b_sandboxes import GATED, running_tool

FAMILY = "E2B lost machine"
LOOK = "Run: cat /mnt/session/a.txt; cat /mnt/session/b.txt || echo no b"


async def _first_turn(scenario: Scenario) -> tuple[Conversation, SimulatedSandbox]:
    """A session whose first turn is saved, on an E2B that brings back the files of the newest pause."""
    await scenario.e2b_settings(keep_snapshots=True)
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/a.txt")
    await scenario.settled(conversation)
    (sandbox,) = await sandboxes_of(scenario.system, conversation.session_id)
    return conversation, sandbox


async def _said(scenario: Scenario, conversation: Conversation, reason: str) -> dict[str, Any]:
    """Wait until `WorkspaceLost` is True for this reason; returns the condition."""

    async def look() -> dict[str, Any] | None:
        found = await condition(scenario.system, conversation.session_id, "WorkspaceLost")
        return found if (found.get("status"), found.get("reason")) == ("True", reason) else None

    found = await eventually(f"WorkspaceLost because of {reason}", look)
    await warned(scenario.system, conversation.session_id, reason)
    return found


async def _rolled_back(scenario: Scenario, conversation: Conversation, since: SimulatedSandbox) -> None:
    """The resource says what is lost since when, and the same sandbox has the files of then."""
    said = await _said(scenario, conversation, "WorkspaceRolledBack")
    assert since.paused_at is not None
    assert f"{since.paused_at:%Y-%m-%dT%H:%M:%SZ}" in said["message"]
    assert (await scenario.system.e2b_admin.sandbox(since.id)).state != "killed"


async def _pause_fails_on_the_node(scenario: Scenario) -> None:
    conversation, sandbox = await _first_turn(scenario)
    await scenario.system.e2b_admin.add_fault("pause", "pause_rolled_back", match={"sandboxID": sandbox.id})
    assert "two" in await scenario.say(conversation, "Run: echo two | tee /mnt/session/b.txt")
    await _rolled_back(scenario, conversation, sandbox)
    answer = await scenario.say(conversation, LOOK)
    assert "kept" in answer
    assert "no b" in answer


async def _countdown_ends_in_a_failed_pause(scenario: Scenario) -> None:
    """While no operator is there, E2B's own pause fails after the turn's end."""
    conversation, sandbox = await _first_turn(scenario)
    await running_tool(scenario, conversation, f"{GATED}; echo two > /mnt/session/b.txt")
    await scenario.system.operator.kill()
    let_go(await scenario.system.e2b_admin.sandbox(sandbox.id))
    assert "finished" in await conversation.answer()
    await scenario.system.e2b_admin.crash(sandbox.id)
    await scenario.system.e2b_admin.expire(sandbox.id)

    async def paused() -> bool:
        return (await scenario.system.e2b_admin.sandbox(sandbox.id)).state == "paused"

    await eventually("the stale record is cleared", paused)
    await scenario.system.operator.restart()
    await _rolled_back(scenario, conversation, sandbox)
    answer = await scenario.say(conversation, LOOK)
    assert "kept" in answer
    assert "no b" in answer


async def _crashes_in_a_tool_call(scenario: Scenario) -> None:
    conversation, sandbox = await _first_turn(scenario)
    once = "if test -e /mnt/session/b.txt; then sleep 60; else cat /mnt/session/a.txt; fi"
    await scenario.send(conversation, f"Run: touch /mnt/session/running; {GATED}; {once}")

    async def runs() -> bool:
        (found,) = await sandboxes_of(scenario.system, conversation.session_id)
        return found.state == "running" and found.path("/mnt/session/running").exists()

    await eventually("the command runs", runs)
    await scenario.system.e2b_admin.crash(sandbox.id)
    await _rolled_back(scenario, conversation, sandbox)

    await eventually("the command runs again", runs)
    let_go(await scenario.system.e2b_admin.sandbox(sandbox.id))
    assert "kept" in await conversation.answer()


async def _crashes_right_after_it_was_resumed(scenario: Scenario) -> None:
    conversation, sandbox = await _first_turn(scenario)
    hang = {"action": "hang_after_commit", "seconds": 60}
    await scenario.system.e2b_admin.add_fault("connect", hang, match={"sandboxID": sandbox.id})
    await scenario.send(conversation, "Run: cat /mnt/session/a.txt || echo empty")

    async def resumed() -> bool:
        return (await scenario.system.e2b_admin.sandbox(sandbox.id)).state == "running"

    await eventually("the sandbox is resumed", resumed)
    await scenario.system.e2b_admin.crash(sandbox.id)
    await scenario.system.e2b_admin.clear_faults()
    assert "kept" in await conversation.answer()
    await _rolled_back(scenario, conversation, sandbox)


async def _crashes_before_its_first_pause(scenario: Scenario) -> None:
    """Nothing was ever saved: the workspace is lost, and that is said."""
    conversation = await scenario.begin()
    sandbox = await running_tool(
        scenario, conversation, "if test -e again; then sleep 60; else echo anew; fi"
    )
    await scenario.system.e2b_admin.crash(sandbox.id)
    await _said(scenario, conversation, "SandboxVanished")
    assert "anew" in await conversation.answer()


async def _another_teams_key(scenario: Scenario) -> None:
    """For some resyncs the key is another team's, which sees no sandbox: none is killed for that later."""
    conversation, sandbox = await _first_turn(scenario)
    await scenario.e2b_settings(other_teams_keys=[scenario.system.clouds.e2b_options["api_key"]])
    await _said(scenario, conversation, "SandboxVanished")
    await scenario.e2b_settings(other_teams_keys=[])
    await resyncs_pass(scenario.system, 6)
    assert (await scenario.system.e2b_admin.sandbox(sandbox.id)).state == "paused"
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/a.txt || echo empty")
    (only,) = await sandboxes_of(scenario.system, conversation.session_id)
    assert only.id == sandbox.id, "the sandbox that is there again is taken back"

    async def regained() -> bool:
        lost = await condition(scenario.system, conversation.session_id, "WorkspaceLost")
        return lost.get("status") == "False"

    await eventually("WorkspaceLost is False", regained)


async def _connect_answers_with_another_sandbox(scenario: Scenario) -> None:
    """The worker must not run in one sandbox while the recorded one is killed as surplus."""
    conversation, sandbox = await _first_turn(scenario)
    other, other_sandbox = await _first_turn(scenario)
    answered = {
        "templateID": other_sandbox.template_id, "sandboxID": other_sandbox.id, "clientID": "c",
        "envdVersion": "0.6.13", "envdAccessToken": "x", "trafficAccessToken": None, "domain": None,
    }  # fmt: skip
    action = {"status": 201, "body": answered}
    await scenario.system.e2b_admin.add_fault("connect", action, match={"sandboxID": sandbox.id})
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/a.txt")
    await warned(scenario.system, conversation.session_id, "SandboxVanished")
    (only,) = await sandboxes_of(scenario.system, conversation.session_id)
    assert only.id == sandbox.id
    assert only.state != "killed"
    assert "kept" in await scenario.say(other, "Run: cat /mnt/session/a.txt")


async def _restarted(scenario: Scenario, conversation: Conversation, sandbox: SimulatedSandbox) -> None:
    """The resource says that memory is lost; the next turn has the files, in the same sandbox."""

    async def said() -> bool:
        found = await condition(scenario.system, conversation.session_id, "WorkspaceRestarted")
        return (found.get("status"), found.get("reason")) == ("True", "GuestUnresponsive")

    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/a.txt")
    await eventually("WorkspaceRestarted is True", said)
    await warned(scenario.system, conversation.session_id, "GuestUnresponsive")
    lost = await condition(scenario.system, conversation.session_id, "WorkspaceLost")
    assert lost.get("status") != "True", "files are kept"
    (only,) = await sandboxes_of(scenario.system, conversation.session_id)
    assert only.id == sandbox.id


async def _does_not_answer_at_the_pause(scenario: Scenario) -> None:
    """The worker's end is heard, and then the guest starves."""
    conversation, sandbox = await _first_turn(scenario)
    busy = {"status": 503, "headers": {"Should-Retry": "false"}}
    # Each pause until then, or the next one would be taken before the guest starves.
    await scenario.system.e2b_admin.add_fault("pause", busy, match={"sandboxID": sandbox.id}, times=100)
    assert "two" in await scenario.say(conversation, "Run: echo two")

    async def asked() -> bool:
        return any(fault["hits"] for fault in await scenario.system.e2b_admin.faults())

    await eventually("the pause is asked for", asked)
    await scenario.system.e2b_admin.wedge(sandbox.id)
    await scenario.system.e2b_admin.clear_faults()
    await scenario.settled(conversation)
    await _restarted(scenario, conversation, sandbox)


async def _does_not_answer_in_a_tool_call(scenario: Scenario) -> None:
    """Nobody hears of the worker's end: the sandbox is paused for its silence, and booted."""
    conversation, sandbox = await _first_turn(scenario)
    await running_tool(scenario, conversation, GATED)
    await scenario.system.e2b_admin.wedge(sandbox.id)
    let_go(await scenario.system.e2b_admin.sandbox(sandbox.id))
    assert "finished" in await conversation.answer()
    await scenario.settled(conversation, seconds=60)
    await _restarted(scenario, conversation, sandbox)


def _row(name: str, play: Play, **outcome: Any) -> Row:
    return Row(FAMILY, name, play, arrangement=SHORT_LIMITS, outcome=Outcome(**outcome))


ROWS = [
    _row("a pause fails on the node", _pause_fails_on_the_node),
    _row("E2B's countdown ends in a pause that fails", _countdown_ends_in_a_failed_pause),
    _row("the guest crashes in a tool call", _crashes_in_a_tool_call),
    _row("the guest crashes right after it was resumed", _crashes_right_after_it_was_resumed),
    _row("the guest crashes before its first pause", _crashes_before_its_first_pause, sandboxes=2),
    _row("the E2B key is another team's for a while", _another_teams_key),
    _row("the guest does not answer at the pause", _does_not_answer_at_the_pause),
    _row("the guest does not answer in a tool call", _does_not_answer_in_a_tool_call),
    _row("connect answers with another sandbox", _connect_answers_with_another_sandbox),
]
