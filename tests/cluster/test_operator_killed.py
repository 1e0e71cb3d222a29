"""kill -9 of the operator at named points of a turn; started again, it finishes what was begun.

Each point is reached from outside: a simulator holds the answer (or the effect) of one call of the operator,
which is killed while it waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from managed_session_local.control_plane import ControlPlane
from managed_session_local.system import LocalSystem

from .sessions import QUICK, begin, paused, sandboxes_of
from .systems import local_system
from .waiting import eventually

HELD_SECONDS = 30


@dataclass(frozen=True)
class Point:
    """A point of a turn: the call of the operator that is held, before or after it took effect."""

    name: str
    cloud: str
    operation: str
    after_commit: bool
    turn: int = 1
    after_answer: bool = False
    """The call is one that comes earlier in the turn too: hold the one after the agent's answer."""


POINTS = [
    Point("an offer was on its way", "anthropic", "work.poll", True),
    Point("the create was sent", "e2b", "create", False),
    Point("the sandbox was created and the answer was on its way", "e2b", "create", True),
    Point("the acknowledgement was sent", "anthropic", "work.ack", False),
    Point("the acknowledgement had taken effect", "anthropic", "work.ack", True),
    Point("the start request was being written", "e2b", "files_write", False),
    Point("the start request was written", "e2b", "files_write", True),
    Point("the worker's start was sent", "e2b", "process_start", False),
    Point(
        "the session was asked for after the worker's end",
        "anthropic",
        "sessions.get",
        False,
        after_answer=True,
    ),
    Point("the pause was sent", "e2b", "pause", False),
    Point("the pause had taken effect", "e2b", "pause", True),
    Point("the pause was being confirmed", "e2b", "get", False),
    Point("the resume was sent", "e2b", "connect", False, turn=2),
    Point("the sandbox was resumed and the answer was on its way", "e2b", "connect", True, turn=2),
]


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings=QUICK) as running:
        yield running


async def hold(system: LocalSystem, point: Point) -> None:
    """Have the point's next call held."""
    if point.cloud == "anthropic":
        action = {"action": "hang", "seconds": HELD_SECONDS, "after_commit": point.after_commit}
        # Every poll, since only one that is given the item is worth holding.
        times = None if point.operation == "work.poll" else 1
        await system.anthropic_admin.add_fault(point.operation, action, times=times)
        if point.operation == "work.poll":
            await eventually("polls are held", lambda: faults_applied(system))
    else:
        await system.e2b_admin.add_fault(
            point.operation, {"status": 504, "after_commit": point.after_commit, "seconds": HELD_SECONDS}
        )


async def faults_applied(system: LocalSystem) -> bool:
    return any(fault["applied"] for fault in await system.anthropic_admin.faults())


async def is_held(system: LocalSystem, point: Point, session_id: str) -> bool:
    if point.operation == "work.poll":
        report = await system.anthropic_admin.session(session_id)
        return report.counts["work_offered"] > 0
    if point.cloud == "anthropic":
        return await faults_applied(system)
    return any(fault["hits"] for fault in await system.e2b_admin.faults())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
async def test_turn_is_finished_when_the_operator_was_killed_while(system: LocalSystem, point: Point) -> None:
    await system.anthropic_admin.clear_faults()
    await system.e2b_admin.clear_faults()
    async with begin(system) as conversation:
        if point.turn == 2:
            await conversation.say("Run: echo first > /mnt/session/kept")
            await eventually(
                "the first turn's sandbox is paused", lambda: paused(system, conversation.session_id)
            )
        if not point.after_answer:
            await hold(system, point)
        await conversation.send("Run: cat /mnt/session/kept 2>/dev/null; echo finished")
        if point.after_answer:
            await conversation.answer()
            await hold(system, point)
        await eventually("the call is held", lambda: is_held(system, point, conversation.session_id))
        await system.operator.kill()
        await system.anthropic_admin.clear_faults()
        await system.operator.restart()
        answer = await conversation.answer()

        assert "finished" in answer
        assert ("first" in answer) == (point.turn == 2), "the second turn has the first one's files"
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        report = await system.anthropic_admin.session(conversation.session_id)
        assert report.counts["turns_answered"] == point.turn
        assert report.counts["results_repeated"] == 0
        assert report.counts["worker_streams_overlapping"] == 0

        await system.kubectl("delete", "managedsessions", "--all", "--timeout=60s")

        async def none_left() -> bool:
            return all(each.state == "killed" for each in await sandboxes_of(system, conversation.session_id))

        await eventually("no sandbox is left", none_left)
