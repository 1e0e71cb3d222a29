"""kill -9 of the operator between any two consecutive effects of a session's life; it is started again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from managed_session_api import names

from ...cluster.waiting import eventually
from ..arrangements import QUEUE_ONLY
from ..effects import Effect
from ..row import Outcome, Row
from ..scene import Held, Scene

FAMILY = "operator killed"

Play = Callable[[Scene], Awaitable[None]]


def _kubernetes(name: str) -> Effect:
    return Effect("kubernetes", name)


def _e2b(name: str) -> Effect:
    return Effect("e2b", name)


def _anthropic(name: str) -> Effect:
    return Effect("anthropic", name)


FIRST_TURN = [
    _kubernetes("create managedsessions"),
    _kubernetes("create secrets"),
    _kubernetes("status: claim"),
    _e2b("create"),
    _kubernetes("status: sandbox ID"),
    _anthropic("work.ack"),
    _kubernetes("status: acknowledged"),
    _e2b("files_write"),
    _e2b("process_start"),
    _kubernetes("delete secrets"),
    _kubernetes("status: heartbeat"),
    _e2b("pause"),
    _kubernetes("identity"),
    _kubernetes("status: finished"),
]
"""The effects of a session's first turn, in their order."""

SECOND_TURN = [
    _kubernetes("create secrets"),
    _kubernetes("status: claim"),
    _e2b("connect"),
    _anthropic("work.ack"),
    _e2b("process_start"),
    _kubernetes("status: heartbeat"),
    _e2b("pause"),
    _kubernetes("status: finished"),
]
"""Of a turn in a paused sandbox."""

REMOVAL = [_e2b("kill"), _kubernetes("delete secrets"), _kubernetes("finalizer removed")]
"""Of a resource's deletion between two turns."""

REMOVAL_OF_A_LIVE_SESSION = [_e2b("kill"), _anthropic("work.stop"), _kubernetes("finalizer removed")]
"""Of a resource's deletion in the middle of a turn."""


async def _kill_and_restart(scene: Scene, held: Held) -> None:
    await held.reached()
    await scene.system.operator.kill()
    held.lose()
    await scene.calm()
    await scene.system.operator.restart()


def _in_first_turn(effect: Effect, *, after_commit: bool) -> Play:
    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        held = await scene.hold(effect, after_commit=after_commit)
        await scene.send(conversation, "Run: echo kept | tee /mnt/session/file")
        await _kill_and_restart(scene, held)
        assert "kept" in await conversation.answer()
        await scene.settled(conversation)
        assert "kept" in await scene.say(conversation, "Run: cat /mnt/session/file")

    return play


def _in_second_turn(effect: Effect, *, after_commit: bool) -> Play:
    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        assert "kept" in await scene.say(conversation, "Run: echo kept | tee /mnt/session/file")
        await scene.settled(conversation)
        held = await scene.hold(effect, after_commit=after_commit)
        await scene.send(conversation, "Run: cat /mnt/session/file")
        await _kill_and_restart(scene, held)
        assert "kept" in await conversation.answer()

    return play


def _in_removal(effect: Effect, *, after_commit: bool) -> Play:
    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        assert "done" in await scene.say(conversation, "Run: echo done")
        await scene.settled(conversation)
        held = await scene.hold(effect, after_commit=after_commit)
        name = names.resource_name(conversation.session_id)
        await scene.system.kubectl("delete", names.PLURAL, name, "--wait=false")
        await _kill_and_restart(scene, held)

    return play


def _in_removal_of_a_live_session(effect: Effect, *, after_commit: bool) -> Play:
    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        await scene.send(conversation, "Run: sleep 60; echo never")
        name = names.resource_name(conversation.session_id)
        await eventually("the worker runs", lambda: _phase(scene, name, "Running"))
        held = await scene.hold(effect, after_commit=after_commit)
        await scene.system.kubectl("delete", names.PLURAL, name, "--wait=false")
        await _kill_and_restart(scene, held)

    return play


async def _phase(scene: Scene, name: str, phase: str) -> bool:
    found = await scene.system.kubectl("get", names.PLURAL, name, "--output=jsonpath={.status.phase}")
    return found == phase


def _rows(
    effects: list[Effect],
    when: str,
    play: Callable[..., Play],
    outcome: Outcome = Outcome(),  # noqa: B008 - immutable
) -> list[Row]:
    return [
        Row(
            FAMILY,
            f"killed in {when} {'after' if after_commit else 'before'} {effect} took effect",
            play(effect, after_commit=after_commit),
            arrangement=QUEUE_ONLY,
            outcome=outcome,
            cuts=(effect, after_commit),
        )
        for effect in effects
        for after_commit in (False, True)
    ]


async def _offer_on_its_way(scene: Scene) -> None:
    """Only a poll that is answered with work is worth losing, so all are held."""
    conversation = await scene.begin()
    admin = scene.system.anthropic_admin
    action = {"status": 504, "after_commit": True, "seconds": 60}
    await admin.add_fault("work.poll", action, times=None)
    await scene.send(conversation, "Run: echo served")

    async def offered() -> bool:
        return (await admin.session(conversation.session_id)).counts["work_offered"] > 0

    await eventually("the work is offered", offered)
    await scene.system.operator.kill()
    await scene.calm()
    await scene.system.operator.restart()
    assert "served" in await conversation.answer()


ROWS = [
    *_rows(FIRST_TURN, "the first turn", _in_first_turn),
    *_rows(SECOND_TURN, "the second turn", _in_second_turn),
    *_rows(REMOVAL, "the removal", _in_removal, Outcome(gone=True)),
    *_rows(
        REMOVAL_OF_A_LIVE_SESSION,
        "the removal of a live session",
        _in_removal_of_a_live_session,
        Outcome(gone=True, unanswered=1),
    ),
    Row(
        FAMILY,
        "killed while an offer was on its way",
        _offer_on_its_way,
        arrangement=QUEUE_ONLY,
        cuts=(_anthropic("work.poll"), True),
    ),
]
