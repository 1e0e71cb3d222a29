"""kill -9 of the operator between any two consecutive effects of a session's life; it is started again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from managed_session_cli.conversation import Conversation

from ...support.arrangements import QUEUE_ONLY, SHORT_ANNOUNCEMENTS, SHORT_COUNTDOWN, Arrangement
from ...support.waiting import eventually
from ..anthropic_side import (
    polls_fail,
    stale_offers,
    two_offers_without_operator,
    with_work_settings,
    work_is,
)
from ..effects import Effect
from ..kubectl_actions import becomes_phase, delete, patch, status
from ..row import Outcome, Row
from ..scenario import Held, Scenario

FAMILY = "operator killed"

Play = Callable[[Scenario], Awaitable[None]]


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

NEWER_TOKEN = [_kubernetes("update secrets")]
"""Of an offer that comes again before its worker has heartbeated."""

ANNOUNCED_RUN = [_kubernetes("status: sandbox creating")]
"""Of a run that a webhook announces before its work is offered: its sandbox is prepared."""

LONG_TURN = [_e2b("set_timeout")]
"""Of a worker that works for long."""

REMOVAL = [_e2b("kill"), _kubernetes("finalizer removed")]
"""Of a resource's deletion between two turns."""

REMOVAL_OF_A_LIVE_SESSION = [_e2b("kill"), _anthropic("work.stop"), _kubernetes("finalizer removed")]
"""Of a resource's deletion in the middle of a turn."""

SUSPENSION = [_kubernetes("status: standing")]
"""Of a suspension between two turns."""

SUSPENSION_OF_A_LIVE_SESSION = [
    _e2b("process_start"),
    _kubernetes("status: finished"),
    _e2b("pause"),
    _kubernetes("status: sandbox paused"),
    _kubernetes("status: standing"),
]
"""Of a suspension in the middle of a turn; the process is the command that stops the worker."""

END = [_kubernetes("status: end")]
"""Of a session's end that a webhook tells."""

END_BY_DELETION = [_kubernetes("delete managedsessions")]
"""Of the end of a session that was deleted."""


async def _kill_and_restart(scenario: Scenario, held: Held) -> None:
    await held.reached()
    await scenario.system.operator.kill()
    held.lose()
    await scenario.calm()
    await scenario.system.operator.restart()


def _in_first_turn(effect: Effect, *, after_commit: bool) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        held = await scenario.hold(effect, after_commit=after_commit)
        await scenario.send(conversation, "Run: echo kept | tee /mnt/session/file")
        await _kill_and_restart(scenario, held)
        assert "kept" in await conversation.answer()
        await scenario.settled(conversation)
        assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")

    return play


def _in_second_turn(effect: Effect, *, after_commit: bool) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
        await scenario.settled(conversation)
        # The first turn's last write is not the one to be held.
        await becomes_phase(scenario, conversation, "Idle")
        held = await scenario.hold(effect, after_commit=after_commit)
        await scenario.send(conversation, "Run: cat /mnt/session/file")
        await _kill_and_restart(scenario, held)
        assert "kept" in await conversation.answer()

    return play


def _in_one_turn(
    prompt: str, answer: str, prepare: Callable[[Scenario], Awaitable[None]] | None = None
) -> Callable[..., Play]:
    """Plays of a session's only turn, in which the operator is killed at the effect."""

    def of_effect(effect: Effect, *, after_commit: bool) -> Play:
        async def play(scenario: Scenario) -> None:
            if prepare is not None:
                await prepare(scenario)
            conversation = await scenario.begin()
            held = await scenario.hold(effect, after_commit=after_commit)
            await scenario.send(conversation, prompt)
            await _kill_and_restart(scenario, held)
            assert answer in await conversation.answer()

        return play

    return of_effect


_in_announced_run = _in_one_turn("Run: echo served", "served", polls_fail)
_in_long_turn = _in_one_turn("Run: sleep 9; echo answered", "answered")


def _when(
    prepare: Callable[[Scenario], Awaitable[Conversation]],
    act: Callable[[Scenario, Conversation], Awaitable[None]],
    then: Callable[[Scenario, Conversation], Awaitable[None]] | None = None,
) -> Callable[..., Play]:
    """Plays that prepare a session, do something to it that has the effect, and see how it ends."""

    def of_effect(effect: Effect, *, after_commit: bool) -> Play:
        async def play(scenario: Scenario) -> None:
            conversation = await prepare(scenario)
            held = await scenario.hold(effect, after_commit=after_commit)
            await act(scenario, conversation)
            await _kill_and_restart(scenario, held)
            if then is not None:
                await then(scenario, conversation)

        return play

    return of_effect


async def _idle(scenario: Scenario) -> Conversation:
    conversation = await scenario.begin()
    assert "done" in await scenario.say(conversation, "Run: echo done")
    await scenario.settled(conversation)
    await becomes_phase(scenario, conversation, "Idle")
    return conversation


async def _live(scenario: Scenario) -> Conversation:
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: sleep 60; echo never")
    await becomes_phase(scenario, conversation, "Running")
    return conversation


async def _suspend(scenario: Scenario, conversation: Conversation) -> None:
    await patch(scenario, conversation, {"spec": {"lifecycle": {"suspend": True}}})


async def _is_suspended(scenario: Scenario, conversation: Conversation) -> None:
    await becomes_phase(scenario, conversation, "Suspended")


async def _resumes(scenario: Scenario, conversation: Conversation) -> None:
    await becomes_phase(scenario, conversation, "Suspended")
    await patch(scenario, conversation, {"spec": {"lifecycle": {"suspend": False}}})
    assert "again" in await scenario.say(conversation, "Run: echo again")


async def _terminate(scenario: Scenario, conversation: Conversation) -> None:
    await scenario.system.anthropic_admin.terminate_session(conversation.session_id)


async def _has_ended(scenario: Scenario, conversation: Conversation) -> None:
    async def ended() -> bool:
        return "endedAt" in await status(scenario, conversation)

    await eventually("the end is written down", ended)


async def _delete_session(scenario: Scenario, conversation: Conversation) -> None:
    await scenario.system.user.beta.sessions.delete(conversation.session_id)


def _with_a_newer_token(effect: Effect, *, after_commit: bool) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        first, second = await two_offers_without_operator(scenario, conversation, "Run: echo served")
        held = await scenario.hold(effect, after_commit=after_commit)
        await scenario.system.e2b_admin.add_fault("files_write", {"action": "hang", "seconds": 2})
        await stale_offers(scenario, first, 1)
        await work_is(scenario, conversation, "starting")
        await stale_offers(scenario, second, 1)
        await _kill_and_restart(scenario, held)
        assert "served" in await conversation.answer()

    return with_work_settings(play, enqueue_at_creation=False)


def _rows(
    effects: list[Effect],
    when: str,
    play: Callable[..., Play],
    outcome: Outcome = Outcome(),  # noqa: B008 - immutable
    arrangement: Arrangement = QUEUE_ONLY,
) -> list[Row]:
    return [
        Row(
            FAMILY,
            f"killed in {when} {'after' if after_commit else 'before'} {effect} took effect",
            play(effect, after_commit=after_commit),
            arrangement=arrangement,
            outcome=outcome,
            cuts=(effect, after_commit),
        )
        for effect in effects
        for after_commit in (False, True)
    ]


async def _offer_on_its_way(scenario: Scenario) -> None:
    """Only a poll that is answered with work is worth losing, so all are held."""
    conversation = await scenario.begin()
    admin = scenario.system.anthropic_admin
    action = {"status": 504, "after_commit": True, "seconds": 60}
    await admin.add_fault("work.poll", action, times=None)
    await scenario.send(conversation, "Run: echo served")

    async def offered() -> bool:
        return (await admin.session(conversation.session_id)).counts["work_offered"] > 0

    await eventually("the work is offered", offered)
    await scenario.system.operator.kill()
    await scenario.calm()
    await scenario.system.operator.restart()
    assert "served" in await conversation.answer()


ROWS = [
    *_rows(FIRST_TURN, "the first turn", _in_first_turn),
    *_rows(SECOND_TURN, "the second turn", _in_second_turn),
    *_rows(NEWER_TOKEN, "a turn with a newer token", _with_a_newer_token),
    *_rows(ANNOUNCED_RUN, "an announced run", _in_announced_run, arrangement=SHORT_ANNOUNCEMENTS),
    *_rows(LONG_TURN, "a long turn", _in_long_turn, arrangement=SHORT_COUNTDOWN),
    *_rows(REMOVAL, "the removal", _when(_idle, delete), Outcome(gone=True)),
    *_rows(
        REMOVAL_OF_A_LIVE_SESSION,
        "the removal of a live session",
        _when(_live, delete),
        Outcome(gone=True, unanswered=1),
    ),
    *_rows(SUSPENSION, "the suspension", _when(_idle, _suspend, _resumes)),
    *_rows(
        SUSPENSION_OF_A_LIVE_SESSION,
        "the suspension of a live session",
        _when(_live, _suspend, _is_suspended),
        Outcome(unanswered=1),
    ),
    *_rows(END, "the end", _when(_idle, _terminate, _has_ended), arrangement=SHORT_ANNOUNCEMENTS),
    *_rows(
        END_BY_DELETION,
        "the end by deletion",
        _when(_idle, _delete_session),
        Outcome(gone=True),
        arrangement=SHORT_ANNOUNCEMENTS,
    ),
    Row(
        FAMILY,
        "killed while an offer was on its way",
        _offer_on_its_way,
        arrangement=QUEUE_ONLY,
        cuts=(_anthropic("work.poll"), True),
    ),
]
