"""A turn that is longer than its class allows: interrupted with an API key, else its worker ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.classes import change_class, delete_classes, make_class
from ..support.sessions import QUICK, becomes, begin, paused, resource, warned
from ..support.systems import local_system
from ..support.waiting import eventually

API_KEY = "anthropic-api-key"
SECONDS = 8


@pytest.fixture(scope="module")
async def shared(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(
        control_plane, operator_settings=QUICK, anthropic_settings={"work": {"lease_ttl_seconds": 4}}
    ) as running:
        yield running


@pytest.fixture
async def system(shared: LocalSystem, request: pytest.FixtureRequest) -> AsyncIterator[LocalSystem]:
    """The system with a class for all sessions, and with or without an API key."""
    shared.operator.set_credential(API_KEY, shared.api_key if request.param else None)
    await make_class(shared, "quick", {"limits": {"maxTurnSeconds": SECONDS}})
    yield shared
    await delete_classes(shared)


WITH_KEY = pytest.mark.parametrize("system", [True], indirect=True, ids=["with an API key"])
WITHOUT_KEY = pytest.mark.parametrize("system", [False], indirect=True, ids=["without an API key"])


@WITH_KEY
async def test_a_long_turn_is_interrupted_and_the_session_goes_on(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        # The worker runs the call to its end, and the next turn's calls after it.
        await conversation.send("Run: sleep 20")
        await warned(system, conversation.session_id, "TurnTooLong")

        async def interrupted() -> bool:
            report = await system.anthropic_admin.session(conversation.session_id)
            return any(turn.interrupted_at is not None for turn in report.turns)

        await eventually("the turn is interrupted", interrupted)
        assert "again" in await conversation.say("Run: echo again")
        await becomes(system, conversation.session_id, "Idle", status="True")


@WITH_KEY
async def test_turns_that_are_each_short_enough_are_left_alone(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        # Together they are longer than one may be, and the worker stays between them.
        for number in range(4):
            assert str(number) in await conversation.say(f"Run: sleep 3; echo {number}")
        report = await system.anthropic_admin.session(conversation.session_id)
        assert all(turn.interrupted_at is None for turn in report.turns)


@WITHOUT_KEY
async def test_without_an_api_key_the_worker_is_ended_and_the_condition_says_what_to_do(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send("Run: test -e /mnt/session/begun || { touch /mnt/session/begun; sleep 100; }")
        told = await becomes(system, session_id, "TurnTooLong")
        assert "user.interrupt" in told["message"]
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        work = (await resource(system, session_id))["status"]["work"]
        assert work["exitReason"] == "TurnTooLong"

        async def offered_again() -> bool:
            report = await system.anthropic_admin.session(session_id)
            return report.counts["work_offered"] >= 2

        await eventually("its work is offered again", offered_again)
        assert await paused(system, session_id), "and left in the queue"
        await becomes(system, session_id, "TurnTooLong")
        # Its user does what the condition says.
        await system.user.beta.sessions.events.send(session_id, events=[{"type": "user.interrupt"}])
        assert "again" in await conversation.say("Run: echo again")


@WITHOUT_KEY
async def test_a_raised_limit_lets_the_turn_go_on(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.send(
            "Run: test -e /mnt/session/begun || { touch /mnt/session/begun; sleep 100; }; echo went on"
        )
        await becomes(system, conversation.session_id, "TurnTooLong")
        await change_class(system, "quick", limits={"maxTurnSeconds": 600})
        assert "went on" in await conversation.answer()
