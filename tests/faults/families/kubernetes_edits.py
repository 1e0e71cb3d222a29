"""What people do by hand to a session's resource and its objects, at bad moments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from managed_session_api import names
from managed_session_local.control_plane import KubectlError
from managed_session_local.conversation import Conversation

from ...cluster.sessions import resource, sandboxes_of
from ...cluster.waiting import eventually
from ..arrangements import QUEUE_ONLY
from ..by_hand import (
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
from ..scene import Scene

FAMILY = "kubernetes"

Play = Callable[[Scene], Awaitable[None]]


async def _idle_session(scene: Scene) -> tuple[Conversation, str]:
    """A session with a paused sandbox, which has a file; and the sandbox's ID."""
    conversation = await scene.begin()
    assert "kept" in await scene.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scene.settled(conversation)
    await becomes_phase(scene, conversation, "Idle")
    return conversation, (await status(scene, conversation))["sandbox"]["id"]


async def _busy_session(scene: Scene, seconds: int) -> tuple[Conversation, str]:
    """A session whose worker runs a command; and its sandbox's ID."""
    conversation = await scene.begin()
    command = f"Run: echo kept > /mnt/session/file; sleep {seconds}; echo answered"
    await scene.send(conversation, command)
    await becomes_phase(scene, conversation, "Running")
    return conversation, (await status(scene, conversation))["sandbox"]["id"]


async def _session_with_held_create(scene: Scene, action: str) -> Conversation:
    """A session whose create has been sent and not answered; clearing E2B's faults lets it go on."""
    conversation = await scene.begin()
    admin = scene.system.e2b_admin
    fault = await admin.add_fault("create", {"action": action, "seconds": 60})
    await scene.send(conversation, "Run: echo answered")

    async def hit() -> bool:
        return any(each["hits"] for each in await admin.faults() if each["id"] == fault["id"])

    await eventually("the create is held", hit)
    return conversation


async def _has_files(scene: Scene, conversation: Conversation) -> None:
    assert "kept" in await scene.say(conversation, "Run: cat /mnt/session/file")


def _deleted_during_create(action: str) -> Play:
    """The message is served by the next resource, which the work's next offer makes."""

    async def play(scene: Scene) -> None:
        conversation = await _session_with_held_create(scene, action)
        first = await uid(scene, conversation)
        await delete(scene, conversation)
        await scene.system.e2b_admin.clear_faults()
        assert "answered" in await conversation.answer()
        assert await uid(scene, conversation) != first

    return play


async def _finalizer_removed(scene: Scene) -> None:
    conversation, _ = await _idle_session(scene)
    await patch(scene, conversation, {"metadata": {"finalizers": None}})

    async def back() -> bool:
        found = await resource(scene.system, conversation.session_id)
        return names.FINALIZER in (found["metadata"].get("finalizers") or [])

    await eventually("the finalizer is back", back)
    await _has_files(scene, conversation)


async def _forced_while_idle(scene: Scene) -> None:
    conversation, sandbox_id = await _idle_session(scene)
    await delete_by_force(scene, conversation)
    await sandbox_killed(scene.system, conversation.session_id, sandbox_id)
    assert "empty" in await scene.say(conversation, "Run: test -e /mnt/session/file || echo empty")


async def _forced_in_a_turn(scene: Scene) -> None:
    """Its worker dies with the sandbox; once its lease has lapsed the work is offered again."""
    conversation = await scene.begin()
    command = (
        "Run: test -e /mnt/session/file && echo old; echo kept > /mnt/session/file; sleep 6; echo answered"
    )
    await scene.send(conversation, command)
    await becomes_phase(scene, conversation, "Running")
    sandbox_id = (await status(scene, conversation))["sandbox"]["id"]
    await delete_by_force(scene, conversation)
    await sandbox_killed(scene.system, conversation.session_id, sandbox_id)
    await scene.system.anthropic_admin.lapse_lease(conversation.session_id)
    answer = await conversation.answer()
    assert "answered" in answer
    assert "old" not in answer, "the sandbox is an empty one"


async def _status_wiped_while_idle(scene: Scene) -> None:
    conversation, sandbox_id = await _idle_session(scene)
    await wipe_status(scene, conversation)

    async def known_again() -> bool:
        sandbox = (await status(scene, conversation)).get("sandbox", {})
        return (sandbox.get("id"), sandbox.get("state")) == (sandbox_id, "Paused")

    await eventually("the sandbox is recorded again", known_again)
    await _has_files(scene, conversation)


async def _status_wiped_before_a_message(scene: Scene) -> None:
    conversation, _ = await _idle_session(scene)
    await wipe_status(scene, conversation)
    await _has_files(scene, conversation)


async def _status_wiped_in_a_turn(scene: Scene) -> None:
    conversation, _ = await _busy_session(scene, seconds=4)
    await wipe_status(scene, conversation)
    assert "answered" in await conversation.answer()
    await scene.settled(conversation)
    await _has_files(scene, conversation)


async def _status_wiped_during_create(scene: Scene) -> None:
    conversation = await _session_with_held_create(scene, "hang_after_commit")
    await wipe_status(scene, conversation)
    await scene.system.e2b_admin.clear_faults()
    assert "answered" in await conversation.answer()


async def _recreated(scene: Scene) -> None:
    """Another UID: another sandbox; the old one belongs to nobody."""
    conversation, sandbox_id = await _idle_session(scene)
    body = await resource(scene.system, conversation.session_id)
    async with frozen(scene):
        await patch(scene, conversation, {"metadata": {"finalizers": None}})
        await scene.system.kubectl("delete", names.PLURAL, name_of(conversation))
        await make_again(scene, body)
    await sandbox_killed(scene.system, conversation.session_id, sandbox_id)
    assert "empty" in await scene.say(conversation, "Run: test -e /mnt/session/file || echo empty")
    assert (await status(scene, conversation))["sandbox"]["id"] != sandbox_id


async def _restored(scene: Scene) -> None:
    """Another UID too, and no status; but the annotations of the one before: the sandbox stays."""
    conversation, sandbox_id = await _idle_session(scene)
    async with frozen(scene):
        await _lose_and_restore(scene, conversation)
    await _has_files(scene, conversation)
    assert (await status(scene, conversation))["sandbox"]["id"] == sandbox_id


async def _lose_and_restore(scene: Scene, conversation: Conversation) -> None:
    body = await resource(scene.system, conversation.session_id)
    kept = {name: body["metadata"][name] for name in ("annotations", "finalizers")}
    await patch(scene, conversation, {"metadata": {"finalizers": None}})
    await scene.system.kubectl("delete", names.PLURAL, name_of(conversation))
    await make_again(scene, body, **kept)


async def _restored_in_a_turn(scene: Scene) -> None:
    """Nobody knows of its worker: the sandbox is paused, and the work offered again when its lease lapses."""
    conversation = await scene.begin()
    command = "Run: test -e begun && echo answered by the second; test -e begun || { touch begun; sleep 60; }"
    await scene.send(conversation, command)
    await becomes_phase(scene, conversation, "Running")
    sandbox_id = (await status(scene, conversation))["sandbox"]["id"]
    await scene.system.operator.kill()
    await _lose_and_restore(scene, conversation)
    await scene.system.operator.restart()

    async def paused_by_the_operator() -> bool:
        found = (await status(scene, conversation)).get("sandbox", {})
        return (found.get("id"), found.get("state")) == (sandbox_id, "Paused")

    await eventually("the sandbox is known again, and paused", paused_by_the_operator)
    await scene.system.anthropic_admin.lapse_lease(conversation.session_id)
    assert "answered by the second" in await conversation.answer()


async def _identity_changed(scene: Scene) -> None:
    """Refused by the API server: nothing to notice."""
    conversation, _ = await _idle_session(scene)
    for change in ({"sessionID": "sesn_another"}, {"environmentID": "env_another"}):
        with pytest.raises(KubectlError, match=r"immutable|set once"):
            await patch(scene, conversation, {"spec": change})
    await _has_files(scene, conversation)


async def _template_changed(scene: Scene) -> None:
    """Takes effect with the next sandbox: the one that is there stays."""
    conversation, _ = await _idle_session(scene)
    await patch(scene, conversation, {"spec": {"sandbox": {"template": "not-built:1"}}})
    await _has_files(scene, conversation)


async def _timeouts_changed(scene: Scene) -> None:
    """Live: the next resume asks for the new countdown."""
    conversation, sandbox_id = await _idle_session(scene)
    await patch(scene, conversation, {"spec": {"sandbox": {"timeoutSeconds": 600}}})
    await _has_files(scene, conversation)
    [sandbox] = [
        each for each in await sandboxes_of(scene.system, conversation.session_id) if each.id == sandbox_id
    ]
    assert (sandbox.end_at - sandbox.started_at).total_seconds() == pytest.approx(600, abs=60)


async def _timeouts_changed_in_a_turn(scene: Scene) -> None:
    conversation, _ = await _busy_session(scene, seconds=3)
    await patch(
        scene, conversation, {"spec": {"sandbox": {"timeoutSeconds": 60}, "worker": {"maxIdleSeconds": 2}}}
    )
    assert "answered" in await conversation.answer()
    await scene.settled(conversation)
    await _has_files(scene, conversation)


async def _remove_token(scene: Scene, conversation: Conversation) -> None:
    secret = names.token_secret_name(name_of(conversation))

    async def there() -> bool:
        return bool(
            await scene.system.kubectl("get", "secret", secret, "--ignore-not-found", "--output=name")
        )

    await eventually("the token is there", there)
    await scene.system.kubectl("delete", "secret", secret)


async def _token_removed(scene: Scene) -> None:
    conversation = await _session_with_held_create(scene, "hang")
    await _remove_token(scene, conversation)
    await scene.system.e2b_admin.clear_faults()
    assert "answered" in await conversation.answer()


async def _token_removed_and_operator_killed(scene: Scene) -> None:
    """Nobody has the token any more; the work is not acknowledged, so its next offer brings another."""
    conversation = await _session_with_held_create(scene, "hang")
    await scene.system.operator.kill()
    await _remove_token(scene, conversation)
    await scene.system.e2b_admin.clear_faults()
    await scene.system.operator.restart()
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
