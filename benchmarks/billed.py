"""Seconds that E2B bills for a short turn, by when the user comes back.

Each turn works for two seconds. E2B's simulator bills a sandbox from its start or resume until it is paused,
as E2B does. Three kinds of users play side by side: they answer after 3 seconds, after a minute, or never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

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


HABITS = (
    Habit("quick", "the user answers after 3 s", 8, 3.0),
    Habit("slow", "the user answers after 60 s", 3, 60.0),
    Habit("never", "the user never answers", 1, 0.0),
)


async def play(system: LocalSystem, habit: Habit) -> str:
    """Play a session. Return its ID."""
    async with begin(system) as conversation:
        for number in range(habit.turns):
            if number:
                await asyncio.sleep(habit.pause_seconds)
            await conversation.say(f"Run: sleep {WORK_SECONDS}; echo done")
        return conversation.session_id


async def billed(system: LocalSystem, sessions: Sequence[str]) -> tuple[float, int]:
    """Return the billed seconds of these sessions' sandboxes, and how often they were resumed."""
    sandboxes = [
        each for each in await system.e2b_admin.sandboxes() if each.metadata.get(METADATA_SESSION) in sessions
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
        found: list[Figure] = []
        for habit, sessions in zip(HABITS, played, strict=True):
            seconds, resumes = await billed(system, sessions)
            turns = habit.turns * SESSIONS
            found += [
                Figure(
                    key=f"billed-{habit.key}", name=f"billed for a turn; {habit.name}", value=seconds / turns,
                    unit="s", limit=WORK_SECONDS, limit_is="the turn's work", goal=GOAL,
                ),
                Figure(
                    key=f"resumes-{habit.key}", name=f"resumes for each turn; {habit.name}",
                    value=resumes / turns, unit="",
                ),
            ]  # fmt: skip
        return found
