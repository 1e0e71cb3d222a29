"""E2B's sandboxes once made: connect, pause and kill go wrong; they vanish, expire, lose files."""

from __future__ import annotations

from typing import Any

from managed_session_api import names
from managed_session_cli import worker_template
from managed_session_cli.conversation import Conversation
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox

from ...support.arrangements import SHORT_LIMITS
from ...support.held import WAIT, let_go
from ...support.sessions import becomes, condition, sandboxes_of, warned
from ...support.waiting import eventually
from ..row import Outcome, Play, Row
from ..scenario import Scenario
from .e2b_create import TOO_MANY_REQUESTS

FAMILY = "E2B sandbox"
HELD_SECONDS = 6
"""Longer than the operator's patience with a connect or a pause."""

ONCE = "test -e begun && echo finished || { touch begun; sleep 60; }"
"""A command that ends at once when it is run for the second time in the same workspace."""
GATED = f"{WAIT}; echo finished"
"""A command that ends when it is let go."""


async def running_tool(
    scenario: Scenario, conversation: Conversation, command: str = ONCE
) -> SimulatedSandbox:
    """Send a message whose command takes its time; returns the sandbox once it runs there."""
    await scenario.send(conversation, f"Run: touch running; {command}")

    async def look() -> SimulatedSandbox | None:
        sandboxes = await sandboxes_of(scenario.system, conversation.session_id, "running")
        return next((each for each in sandboxes if each.path("/mnt/session/running").exists()), None)

    return await eventually("the command runs", look)


async def _first_turn(scenario: Scenario) -> Conversation:
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scenario.settled(conversation)
    return conversation


async def _the_sandbox(scenario: Scenario, conversation: Conversation) -> SimulatedSandbox:
    (sandbox,) = await sandboxes_of(scenario.system, conversation.session_id)
    return sandbox


async def _served_from_the_same_files(scenario: Scenario, conversation: Conversation) -> None:
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")
    assert len(await sandboxes_of(scenario.system, conversation.session_id)) == 1, (
        "one sandbox for both turns"
    )


async def _workspace_lost(scenario: Scenario, conversation: Conversation) -> None:
    """Wait until the resource says that the session's files are gone."""

    async def look() -> bool:
        lost = await condition(scenario.system, conversation.session_id, "WorkspaceLost")
        return lost.get("status") == "True"

    await eventually("WorkspaceLost is True", look)


def _connect_meets(*actions: dict[str, Any] | str, warning: str | None = None) -> Play:
    """The resume of a session's second turn meets these faults."""

    async def play(scenario: Scenario) -> None:
        conversation = await _first_turn(scenario)
        sandbox = await _the_sandbox(scenario, conversation)
        for action in actions:
            await scenario.system.e2b_admin.add_fault("connect", action, match={"sandboxID": sandbox.id})
        await _served_from_the_same_files(scenario, conversation)
        if warning is not None:
            await warned(scenario.system, conversation.session_id, warning)

    return play


def _pause_meets(*actions: dict[str, Any] | str, lost: str | None = None) -> Play:
    """The pause after a session's second turn meets these faults, and there is a third turn.

    `lost` is what the third turn finds where files are lost, which the resource says.
    """

    async def play(scenario: Scenario) -> None:
        conversation = await _first_turn(scenario)
        sandbox = await _the_sandbox(scenario, conversation)
        for action in actions:
            await scenario.system.e2b_admin.add_fault("pause", action, match={"sandboxID": sandbox.id})
        assert "two" in await scenario.say(conversation, "Run: echo two")
        if lost is not None:
            await _workspace_lost(scenario, conversation)
            assert lost in await scenario.say(conversation, "Run: cat /mnt/session/file || echo empty")
            return
        await scenario.settled(conversation)
        await _served_from_the_same_files(scenario, conversation)

    return play


def _kill_meets(*actions: dict[str, Any] | str) -> Play:
    """The kill after the resource was deleted meets these faults; the resource goes all the same."""

    async def play(scenario: Scenario) -> None:
        conversation = await _first_turn(scenario)
        sandbox = await _the_sandbox(scenario, conversation)
        for action in actions:
            await scenario.system.e2b_admin.add_fault("kill", action, match={"sandboxID": sandbox.id})
        name = names.resource_name(conversation.session_id)
        await scenario.system.kubectl("delete", names.PLURAL, name, "--timeout=60s")
        assert (await scenario.system.e2b_admin.sandbox(sandbox.id)).state == "killed"

    return play


async def _vanishes_while_running(scenario: Scenario) -> None:
    conversation = await _first_turn(scenario)
    sandbox = await running_tool(scenario, conversation, "if test -e file; then sleep 60; else echo anew; fi")
    await scenario.system.e2b_admin.vanish(sandbox.id)
    await _workspace_lost(scenario, conversation)
    assert "anew" in await conversation.answer()


async def _vanishes_while_paused(scenario: Scenario) -> None:
    conversation = await _first_turn(scenario)
    await scenario.system.e2b_admin.vanish((await _the_sandbox(scenario, conversation)).id)
    assert "empty" in await scenario.say(conversation, "Run: cat /mnt/session/file || echo empty")
    await _workspace_lost(scenario, conversation)


async def _vanishes_while_it_is_resumed(scenario: Scenario) -> None:
    """The resume is answered, and the sandbox is gone before its worker starts."""
    conversation = await _first_turn(scenario)
    sandbox = await _the_sandbox(scenario, conversation)
    hang = {"action": "hang_after_commit", "seconds": 60}
    await scenario.system.e2b_admin.add_fault("connect", hang, match={"sandboxID": sandbox.id})
    await scenario.send(conversation, "Run: cat /mnt/session/file || echo empty")

    async def resumed() -> bool:
        return (await scenario.system.e2b_admin.sandbox(sandbox.id)).state == "running"

    await eventually("the sandbox is resumed", resumed)
    await scenario.system.e2b_admin.vanish(sandbox.id)
    await scenario.system.e2b_admin.clear_faults()
    assert "empty" in await conversation.answer()
    await _workspace_lost(scenario, conversation)


async def _loses_its_files(scenario: Scenario) -> None:
    """E2B resumes an older state: nobody can know it, but the turn is served."""
    conversation = await _first_turn(scenario)
    await scenario.system.e2b_admin.lose_files((await _the_sandbox(scenario, conversation)).id)
    assert "empty" in await scenario.say(conversation, "Run: cat /mnt/session/file || echo empty")
    assert len(await sandboxes_of(scenario.system, conversation.session_id)) == 1


async def _goes_on_after_a_pause(
    scenario: Scenario, conversation: Conversation, sandbox: SimulatedSandbox
) -> None:
    """The command was cut off by a pause: it, or its repetition, comes to its end in the same sandbox."""

    async def paused() -> bool:
        history = (await scenario.system.e2b_admin.sandbox(sandbox.id)).history
        return any(entry["event"] == "paused" for entry in history)

    await eventually("E2B pauses the sandbox", paused)
    let_go(sandbox)
    assert "finished" in await conversation.answer()
    await _the_sandbox(scenario, conversation)


async def _expires_in_a_tool_call(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation, GATED)
    await scenario.system.e2b_admin.expire(sandbox.id)
    await _goes_on_after_a_pause(scenario, conversation, sandbox)


async def _expires_while_no_operator_is_there(scenario: Scenario) -> None:
    """The operator comes back when the lease has lapsed: the frozen worker must not go on."""
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation, GATED)
    await scenario.system.operator.kill()
    await scenario.system.e2b_admin.expire(sandbox.id)

    async def lapsed() -> bool:
        report = await scenario.system.anthropic_admin.session(conversation.session_id)
        return report.counts["leases_lapsed"] > 0

    await eventually("the lease has lapsed", lapsed)
    await scenario.system.operator.restart()
    await _goes_on_after_a_pause(scenario, conversation, sandbox)


def _stream_falls_silent(after_events: int) -> Play:
    """Of the end of its worker nothing is heard, and nothing of the stream's end."""

    async def play(scenario: Scenario) -> None:
        conversation = await _first_turn(scenario)
        await scenario.system.e2b_admin.add_fault(
            "process_start",
            {"action": "silent_stream", "after_events": after_events},
            match={"body": {"process": {"$contains": "$supervisorctl start"}}},
        )
        await _served_from_the_same_files(scenario, conversation)
        await scenario.settled(conversation)
        await _served_from_the_same_files(scenario, conversation)

    return play


async def _reaches_its_longest_life(scenario: Scenario) -> None:
    """E2B pauses what has run for as long as the plan allows, whatever its countdown was."""
    await scenario.e2b_settings(max_lifetime_seconds=6)
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation, GATED)
    await _goes_on_after_a_pause(scenario, conversation, sandbox)


async def _is_paused_by_hand_in_a_tool_call(scenario: Scenario) -> None:
    """Somebody pauses the sandbox in E2B's dashboard."""
    conversation = await scenario.begin()
    sandbox = await running_tool(scenario, conversation, GATED)
    await _e2b(scenario).AsyncSandbox.pause(sandbox.id)
    await _goes_on_after_a_pause(scenario, conversation, sandbox)


async def _is_resumed_by_hand(scenario: Scenario) -> None:
    """Somebody resumes an idle session's sandbox: it is paused again within two resyncs."""
    conversation = await _first_turn(scenario)
    sandbox = await _the_sandbox(scenario, conversation)
    await _e2b(scenario).AsyncSandbox.connect(sandbox.id, timeout=600)
    await scenario.settled(conversation)
    await _served_from_the_same_files(scenario, conversation)


async def _template_is_deleted(scenario: Scenario) -> None:
    """E2B kills the sandbox of a deleted template when it is paused; the template comes back later."""
    conversation = await _first_turn(scenario)
    sandbox = await running_tool(scenario, conversation, GATED)
    await scenario.system.e2b_admin.delete_template(sandbox.template_id)
    try:
        let_go(sandbox)
        assert "finished" in await conversation.answer()
        await _workspace_lost(scenario, conversation)
        await scenario.send(conversation, "Run: cat /mnt/session/file || echo empty")
        await becomes(scenario.system, conversation.session_id, "TemplateNotFound")
    finally:
        await worker_template.ensure_template(None, **scenario.system.clouds.e2b_options)
    assert "empty" in await conversation.answer()


async def _key_is_revoked(scenario: Scenario) -> None:
    """In the middle of a turn: the worker finishes, the pause waits until a key is accepted again."""
    conversation = await _first_turn(scenario)
    sandbox = await running_tool(scenario, conversation, GATED)
    await scenario.e2b_settings(api_keys=["another"])
    let_go(sandbox)
    assert "finished" in await conversation.answer()
    await becomes(scenario.system, conversation.session_id, "SandboxCredentialRejected")
    assert (await _the_sandbox(scenario, conversation)).state == "running"
    await scenario.calm()
    await scenario.settled(conversation)
    await _served_from_the_same_files(scenario, conversation)


def _e2b(scenario: Scenario) -> Any:
    import e2b

    url, key = scenario.system.e2b_admin.url, scenario.system.clouds.e2b_options["api_key"]
    return e2b.E2B(api_key=key, api_url=url, sandbox_url=url)


def _row(name: str, play: Play, **outcome: Any) -> Row:
    return Row(FAMILY, name, play, arrangement=SHORT_LIMITS, outcome=Outcome(**outcome))


_AFTER: dict[str, Any] = {"after_commit": True}
_TRANSITION = {"status": 409, "body": {"code": 409, "message": "sandbox is transitioning"}}
_ALREADY = {"status": 409, "body": {"code": 409, "message": "sandbox is already paused"}}
_NOT_RETRIED = {"headers": {"Should-Retry": "false"}}

ROWS = [
    _row("connect is lost on its way", _connect_meets("drop_before")),
    _row("connect's answer is lost", _connect_meets("drop_after_commit")),
    _row("connect is answered 504 and done", _connect_meets({"status": 504, **_AFTER, **_NOT_RETRIED})),
    _row(
        "connect is answered 500",
        _connect_meets({"status": 500}, warning="SandboxResumeFailed"),
    ),
    _row("connect is answered 503", _connect_meets({"status": 503, **_NOT_RETRIED})),
    _row("connect is answered 429", _connect_meets({"status": 429}, warning="SandboxQuotaExceeded")),
    _row(
        "connect is answered 429 for too many requests",
        _connect_meets(TOO_MANY_REQUESTS, warning="SandboxRateLimited"),
    ),
    _row("connect meets a transition", _connect_meets(_TRANSITION, _TRANSITION)),
    _row("connect hangs past its limit", _connect_meets({"status": 504, "seconds": HELD_SECONDS})),
    _row("pause is lost on its way", _pause_meets("drop_before")),
    _row("pause's answer is lost", _pause_meets("drop_after_commit")),
    _row("pause is answered 504 and done", _pause_meets({"status": 504, **_AFTER, **_NOT_RETRIED})),
    _row("pause is refused with 500", _pause_meets({"status": 500}, {"status": 500})),
    _row("pause is refused with 503", _pause_meets({"status": 503, **_NOT_RETRIED})),
    _row("pause is answered 'already' and not done", _pause_meets(_ALREADY)),
    _row("pause is answered 'already' and done", _pause_meets({**_ALREADY, **_AFTER})),
    _row("pause hangs past its limit", _pause_meets({"status": 504, "seconds": HELD_SECONDS})),
    _row("pause is rolled back", _pause_meets("pause_rolled_back", lost="kept")),
    _row("pause drops the sandbox", _pause_meets("pause_dropped", lost="empty"), sandboxes=2),
    _row("kill is lost on its way", _kill_meets("drop_before"), gone=True),
    _row("kill's answer is lost", _kill_meets("drop_after_commit"), gone=True),
    _row("kill is answered 500 and done", _kill_meets({"status": 500, **_AFTER}), gone=True),
    _row("kill is refused twice", _kill_meets({"status": 500}, {"status": 500}), gone=True),
    _row("the sandbox vanishes while it runs", _vanishes_while_running, sandboxes=2),
    _row("the sandbox vanishes while it is paused", _vanishes_while_paused, sandboxes=2),
    _row("the sandbox vanishes right after it was resumed", _vanishes_while_it_is_resumed, sandboxes=2),
    _row("the sandbox is resumed with lost files", _loses_its_files),
    _row("the sandbox's time is up in the middle of a tool call", _expires_in_a_tool_call),
    _row("the sandbox's time is up while no operator is there", _expires_while_no_operator_is_there),
    _row("the sandbox reaches its longest life in a tool call", _reaches_its_longest_life),
    _row("the sandbox is paused by hand in a tool call", _is_paused_by_hand_in_a_tool_call),
    _row("the sandbox is resumed by hand", _is_resumed_by_hand),
    _row("the worker's stream falls silent before its heartbeat", _stream_falls_silent(2)),
    _row("the worker's stream falls silent before its end", _stream_falls_silent(3)),
    _row("the template is deleted", _template_is_deleted, sandboxes=2),
    _row("the E2B key is revoked in the middle of a turn", _key_is_revoked),
]
