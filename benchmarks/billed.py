"""Seconds that E2B bills for a short turn, by when the user comes back.

Each turn works for two seconds. E2B's simulator bills a sandbox from its start or resume until it is paused,
as E2B does. Three kinds of users play side by side: they answer after 3 seconds, after a minute, or never.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from statistics import mean

from managed_session_api.names import METADATA_SESSION
from managed_session_devkit.system.local_system import LocalSystem

from benchmarks.figures import Figure
from benchmarks.latency_model import model_clouds
from benchmarks.sessions import begin, settle

WORK_SECONDS = 2.0
SESSIONS = 3
GOAL = 2.5
"""Billed seconds ÷ work: five seconds for a turn of two."""


@dataclass(frozen=True)
class Habit:
    """How a user behaves: the number of turns, and the seconds from an answer to the next message."""

    key: str
    name: str
    turns: int
    pause_seconds: float


QUICK = Habit("quick", "the user answers after 3 s", 8, 3.0)
SLOW = Habit("slow", "the user answers after 60 s", 3, 60.0)
NEVER = Habit("never", "the user never answers", 1, 0.0)
HABITS = (QUICK, SLOW, NEVER)


@dataclass(frozen=True)
class Bill:
    """What a session has cost: billed seconds in all, those of its first turn, and resumes."""

    seconds: float
    first_seconds: float
    resumes: int


async def play(system: LocalSystem, habit: Habit) -> tuple[str, float]:
    """Play a session. Return its ID, and the seconds that were billed before the second message."""
    first = 0.0
    async with begin(system) as conversation:
        for number in range(habit.turns):
            if number:
                await asyncio.sleep(habit.pause_seconds)
            if number == 1:
                first, _ = await billed(system, conversation.session_id)
            await conversation.say(f"Run: sleep {WORK_SECONDS}; echo done")
        return conversation.session_id, first


async def billed(system: LocalSystem, session: str) -> tuple[float, int]:
    """Return the billed seconds of this session's sandboxes so far, and how often they were resumed."""
    sandboxes = [
        each for each in await system.e2b_admin.sandboxes() if each.metadata.get(METADATA_SESSION) == session
    ]
    return sum(each.billed_seconds for each in sandboxes), sum(each.resumes for each in sandboxes)


async def measure() -> list[Figure]:
    """Play all users at once, until every sandbox is paused."""
    async with LocalSystem(delete_sessions_at_exit=False) as system:
        await model_clouds(system)
        played = await asyncio.gather(
            *(asyncio.gather(*(play(system, habit) for _ in range(SESSIONS))) for habit in HABITS)
        )
        await settle(system, SESSIONS * len(HABITS))
        bills: dict[str, list[Bill]] = {}
        for habit, sessions in zip(HABITS, played, strict=True):
            for session, first in sessions:
                seconds, resumes = await billed(system, session)
                bills.setdefault(habit.key, []).append(Bill(seconds, first, resumes))
    return figures_of(bills)


def figures_of(bills: dict[str, list[Bill]]) -> list[Figure]:
    """Return the figures of all habits."""

    def each_turn(key: str, name: str, seconds: float, goal: float | None = None) -> Figure:
        return Figure(
            key=f"billed-{key}", name=name, value=seconds, unit="s", limit=WORK_SECONDS,
            limit_is="the turn's work", goal=goal,
        )  # fmt: skip

    slow = [(each.seconds - each.first_seconds) / (SLOW.turns - 1) for each in bills[SLOW.key]]
    quick = bills[QUICK.key]
    return [
        each_turn(SLOW.key, f"billed for a turn after the first; {SLOW.name}", mean(slow), GOAL),
        each_turn(NEVER.key, f"billed for the only turn; {NEVER.name}", _mean_seconds(bills[NEVER.key])),
        each_turn(QUICK.key, f"billed for a turn; {QUICK.name}", _mean_seconds(quick) / QUICK.turns),
        Figure(
            key="resumes-quick", name=f"resumes of a session; {QUICK.name}", unit="",
            value=mean(each.resumes for each in quick), goal=0,
        ),
    ]  # fmt: skip


def _mean_seconds(bills: list[Bill]) -> float:
    return mean(each.seconds for each in bills)
