"""What people do by hand to a session's resource and its objects, at bad moments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import KubectlError

from ...support.arrangements import QUEUE_ONLY
from ...support.held import let_go
from ...support.sessions import resource
from ...support.waiting import eventually
from ..kubectl_actions import (
    becomes_phase,
    delete,
    delete_by_force,
    frozen,
    make_again,
    name_of,
    patch,
    sandbox_killed,
    status,
    uid,
    wipe_status,
)
from ..row import Outcome, Row
from ..scenario import Scenario
from .e2b_sandboxes import GATED, running_tool

FAMILY = "kubernetes"

Play = Callable[[Scenario], Awaitable[None]]


async def _idle_session(scenario: Scenario) -> tuple[Conversation, str]:
    """A session with a paused sandbox, which has a file; and the sandbox's ID."""
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scenario.settled(conversation)
    await becomes_phase(scenario, conversation, "Idle")
    return conversation, (await status(scenario, conversation))["sandbox"]["id"]


async def _busy_session(scenario: Scenario, seconds: int) -> tuple[Conversation, str]:
    """A session whose worker runs a command; and its sandbox's ID."""
    conversation = await scenario.begin()
    command = f"Run: echo kept > /mnt/session/file; sleep {seconds}; echo answered"
    await scenario.send(conversation, command)
    await becomes_phase(scenario, conversation, "Running")
    return conversation, (await status(scenario, conversation))["sandbox"]["id"]


async def _session_with_held_create(scenario: Scenario, action: str) -> Conversation:
    """A session whose create has been sent and not answered; clearing E2B's faults lets it go on."""
    conversation = await scenario.begin()
    admin = scenario.system.e2b_admin
    fault = await admin.add_fault("create", {"action": action, "seconds": 60})
    await scenario.send(conversation, "Run: echo answered")

    async def hit() -> bool:
        return any(each["hits"] for each in await admin.faults() if each["id"] == fault["id"])

    await eventually("the create is held", hit)
    return conversation


async def _has_files(scenario: Scenario, conversation: Conversation) -> None:
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")


def _deleted_during_create(action: str) -> Play:
    """The message is served by the next resource, which the work's next offer makes."""

    async def play(scenario: Scenario) -> None:
        conversation = await _session_with_held_create(scenario, action)
        first = await uid(scenario, conversation)
        await delete(scenario, conversation)
        await scenario.system.e2b_admin.clear_faults()
        assert "answered" in await conversation.answer()
        assert await uid(scenario, conversation) != first

    return play


async def _finalizer_removed(scenario: Scenario) -> None:
    conversation, _ = await _idle_session(scenario)
    await patch(scenario, conversation, {"metadata": {"finalizers": None}})

    async def back() -> bool:
        found = await resource(scenario.system, conversation.session_id)
        return names.FINALIZER in (found["metadata"].get("finalizers") or [])

    await eventually("the finalizer is back", back)
    await _has_files(scenario, conversation)


async def _forced_while_idle(scenario: Scenario) -> None:
    conversation, sandbox_id = await _idle_session(scenario)
    await delete_by_force(scenario, conversation)
    await sandbox_killed(scenario.system, conversation.session_id, sandbox_id)
    assert "empty" in await scenario.say(conversation, "Run: test -e /mnt/session/file || echo empty")


async def _forced_in_a_turn(scenario: Scenario) -> None:
    """Its worker dies with the sandbox; once its lease has lapsed the work is offered again."""
    conversation = await scenario.begin()
    command = (
        "Run: test -e /mnt/session/file && echo old; echo kept > /mnt/session/file; sleep 15; echo answered"
    )
    await scenario.send(conversation, command)
    await becomes_phase(scenario, conversation, "Running")
    sandbox_id = (await status(scenario, conversation))["sandbox"]["id"]
    await delete_by_force(scenario, conversation)
    await sandbox_killed(scenario.system, conversation.session_id, sandbox_id)
    await scenario.system.anthropic_admin.lapse_lease(conversation.session_id)
    answer = await conversation.answer()
    assert "answered" in answer
    assert "old" not in answer, "the sandbox is an empty one"


async def _status_wiped_while_idle(scenario: Scenario) -> None:
    conversation, sandbox_id = await _idle_session(scenario)
    await wipe_status(scenario, conversation)

    async def known_again() -> bool:
        sandbox = (await status(scenario, conversation)).get("sandbox", {})
        return (sandbox.get("id"), sandbox.get("state")) == (sandbox_id, "Paused")

    await eventually("the sandbox is recorded again", known_again)
    await _has_files(scenario, conversation)


async def _status_wiped_before_a_message(scenario: Scenario) -> None:
    conversation, _ = await _idle_session(scenario)
    await wipe_status(scenario, conversation)
    await _has_files(scenario, conversation)


async def _status_wiped_in_a_turn(scenario: Scenario) -> None:
    conversation, _ = await _busy_session(scenario, seconds=8)
    template = (await status(scenario, conversation))["sandbox"]["templateID"]
    await wipe_status(scenario, conversation)
    assert "answered" in await conversation.answer()
    await scenario.settled(conversation)
    assert (await status(scenario, conversation))["sandbox"]["templateID"] == template
    await _has_files(scenario, conversation)


async def _status_wiped_during_create(scenario: Scenario) -> None:
    conversation = await _session_with_held_create(scenario, "hang_after_commit")
    await wipe_status(scenario, conversation)
    await scenario.system.e2b_admin.clear_faults()
    assert "answered" in await conversation.answer()


async def _recreated(scenario: Scenario) -> None:
    """Another UID: another sandbox; the old one belongs to nobody."""
    conversation, sandbox_id = await _idle_session(scenario)
    body = await resource(scenario.system, conversation.session_id)
    async with frozen(scenario):
        await patch(scenario, conversation, {"metadata": {"finalizers": None}})
        await scenario.system.kubectl("delete", names.PLURAL, name_of(conversation))
        await make_again(scenario, body)
    await sandbox_killed(scenario.system, conversation.session_id, sandbox_id)
    assert "empty" in await scenario.say(conversation, "Run: test -e /mnt/session/file || echo empty")
    assert (await status(scenario, conversation))["sandbox"]["id"] != sandbox_id


async def _restored(scenario: Scenario) -> None:
    """Another UID too, and no status; but the annotations of the one before: the sandbox stays."""
    conversation, sandbox_id = await _idle_session(scenario)
    async with frozen(scenario):
        await _lose_and_restore(scenario, conversation)
    await _has_files(scenario, conversation)
    assert (await status(scenario, conversation))["sandbox"]["id"] == sandbox_id


async def _lose_and_restore(scenario: Scenario, conversation: Conversation) -> None:
    body = await resource(scenario.system, conversation.session_id)
    kept = {name: body["metadata"][name] for name in ("annotations", "finalizers")}
    await patch(scenario, conversation, {"metadata": {"finalizers": None}})
    await scenario.system.kubectl("delete", names.PLURAL, name_of(conversation))
    await make_again(scenario, body, **kept)


async def _restored_in_a_turn(scenario: Scenario) -> None:
    """Nobody knows of its worker: the sandbox is paused, and the work offered again when its lease lapses."""
    conversation = await scenario.begin()
    command = "Run: test -e begun && echo answered by the second; test -e begun || { touch begun; sleep 60; }"
    await scenario.send(conversation, command)
    await becomes_phase(scenario, conversation, "Running")
    sandbox_id = (await status(scenario, conversation))["sandbox"]["id"]
    await scenario.system.operator.kill()
    await _lose_and_restore(scenario, conversation)
    await scenario.system.operator.restart()

    async def paused_by_the_operator() -> bool:
        found = (await status(scenario, conversation)).get("sandbox", {})
        return (found.get("id"), found.get("state")) == (sandbox_id, "Paused")

    await eventually("the sandbox is known again, and paused", paused_by_the_operator)
    await scenario.system.anthropic_admin.lapse_lease(conversation.session_id)
    assert "answered by the second" in await conversation.answer()


async def _identity_changed(scenario: Scenario) -> None:
    """Refused by the API server: nothing to notice."""
    conversation, _ = await _idle_session(scenario)
    for change in ({"sessionID": "sesn_another"}, {"environmentID": "env_another"}):
        with pytest.raises(KubectlError, match=r"immutable|set once"):
            await patch(scenario, conversation, {"spec": change})
    await _has_files(scenario, conversation)


async def _template_changed(scenario: Scenario) -> None:
    """Takes effect with the next sandbox: the one that is there stays."""
    conversation, _ = await _idle_session(scenario)
    await patch(scenario, conversation, {"spec": {"sandbox": {"template": "not-built:1"}}})
    await _has_files(scenario, conversation)


async def _timeouts_changed(scenario: Scenario) -> None:
    """Live: the next resume asks for the new countdown."""
    conversation, sandbox_id = await _idle_session(scenario)
    await patch(scenario, conversation, {"spec": {"sandbox": {"timeoutSeconds": 600}}})
    # Asked while the command runs: a pause ends the countdown.
    sandbox = await running_tool(scenario, conversation, f"cat file; {GATED}")
    assert sandbox.id == sandbox_id
    assert (sandbox.end_at - sandbox.started_at).total_seconds() == pytest.approx(600, abs=60)
    let_go(sandbox)
    assert "kept" in await conversation.answer()


async def _timeouts_changed_in_a_turn(scenario: Scenario) -> None:
    conversation, _ = await _busy_session(scenario, seconds=6)
    await patch(
        scenario, conversation, {"spec": {"sandbox": {"timeoutSeconds": 60}, "worker": {"maxIdleSeconds": 2}}}
    )
    assert "answered" in await conversation.answer()
    await scenario.settled(conversation)
    await _has_files(scenario, conversation)


async def _remove_token(scenario: Scenario, conversation: Conversation) -> None:
    secret = names.token_secret_name(name_of(conversation))

    async def there() -> bool:
        return bool(
            await scenario.system.kubectl("get", "secret", secret, "--ignore-not-found", "--output=name")
        )

    await eventually("the token is there", there)
    await scenario.system.kubectl("delete", "secret", secret)


async def _token_removed(scenario: Scenario) -> None:
    conversation = await _session_with_held_create(scenario, "hang")
    await _remove_token(scenario, conversation)
    await scenario.system.e2b_admin.clear_faults()
    assert "answered" in await conversation.answer()


async def _token_removed_and_operator_killed(scenario: Scenario) -> None:
    """Nobody has the token any more; the work is not acknowledged, so its next offer brings another."""
    conversation = await _session_with_held_create(scenario, "hang")
    await scenario.system.operator.kill()
    await _remove_token(scenario, conversation)
    await scenario.system.e2b_admin.clear_faults()
    await scenario.system.operator.restart()
    assert "answered" in await conversation.answer()


def _row(name: str, play: Play, outcome: Outcome = Outcome()) -> Row:  # noqa: B008 - immutable
    return Row(FAMILY, name, play, arrangement=QUEUE_ONLY, outcome=outcome)


ROWS = [
    _row("a resource is deleted before its create takes effect", _deleted_during_create("hang")),
    _row("a resource is deleted after its create took effect", _deleted_during_create("hang_after_commit")),
    _row("the finalizer is removed by hand", _finalizer_removed),
    _row("an idle resource is removed without its finalizer", _forced_while_idle, Outcome(sandboxes=2)),
    _row(
        "a resource is removed without its finalizer in the middle of a turn",
        _forced_in_a_turn,
        Outcome(sandboxes=2),
    ),
    _row("the status is wiped while the sandbox is paused", _status_wiped_while_idle),
    _row("the status is wiped just before a message", _status_wiped_before_a_message),
    _row("the status is wiped while a worker runs", _status_wiped_in_a_turn),
    _row("the status is wiped while a create is on its way", _status_wiped_during_create),
    _row("a resource is made anew under the same name", _recreated, Outcome(sandboxes=2)),
    _row("a resource is restored from a backup, with another UID and no status", _restored),
    _row("a resource is restored from a backup in the middle of a turn", _restored_in_a_turn),
    _row("someone tries to change the session or environment", _identity_changed),
    _row("the template is changed between two turns", _template_changed),
    _row("the sandbox's countdown is changed between two turns", _timeouts_changed),
    _row("times are changed while a worker runs", _timeouts_changed_in_a_turn),
    _row("the token's Secret is removed by hand before the start", _token_removed),
    _row(
        "the token's Secret is removed by hand and the operator killed before the start",
        _token_removed_and_operator_killed,
    ),
]
