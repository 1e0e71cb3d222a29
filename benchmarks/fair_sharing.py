"""How long a quiet class waits for a slot during a flood from another class, with and without classes.

The clock is simulated, and the capacity is the operator's. There are 20 slots; a turn has one for 30 seconds
on average. The flood arrives within ten seconds; a session of the quiet class comes every five seconds.
"""

from __future__ import annotations

import heapq
import random
import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from managed_session_operator.capacity.class_shares import ClassShare
from managed_session_operator.capacity.slots import Capacity

from benchmarks.figures import Figure

SCALES = (500, 1500, 5000)
SLOTS, QUIET_SESSIONS, EVERY_SECONDS, TURN_SECONDS, SEED = 20, 80, 5.0, 30.0, 11

WEIGHTED = "the flood's class has weight 4"
"""The shares with which the quiet class needs more slots than its part."""
START = datetime(2026, 1, 1, tzinfo=UTC)
FLOOD, QUIET = "flood", "quiet"
SHARES = {
    "without classes": None,
    "equal weights": {FLOOD: ClassShare(), QUIET: ClassShare()},
    WEIGHTED: {FLOOD: ClassShare(weight=4), QUIET: ClassShare()},
    "and the quiet class is guaranteed 8 slots": {
        FLOOD: ClassShare(weight=4),
        QUIET: ClassShare(guaranteed_slots=8),
    },
}


KEYS = dict(zip(SHARES, ("before", "equal", "weighted", "guaranteed"), strict=True))


@dataclass(frozen=True)
class Session:
    """A session with one turn. Times are in seconds."""

    name: str
    class_name: str
    arrives_at: float
    turn_seconds: float


@dataclass
class Run:
    """Plays the arrivals on a simulated clock."""

    slots: int
    shares: dict[str, ClassShare] | None
    now: float = 0.0
    waits: dict[str, list[float]] = field(default_factory=lambda: {FLOOD: [], QUIET: []})
    longest_turn: float = 0.0

    def play(self, sessions: list[Session]) -> Run:
        """Serve all sessions, each when the capacity gives it a slot."""
        woken: list[str] = []
        capacity = Capacity(self.slots, 80, wake=woken.append, clock=lambda: self.now)
        capacity.share_slots(self.shares or {})
        waiting: dict[str, Session] = {}
        order = [(each.arrives_at, number, each, True) for number, each in enumerate(sessions)]
        heapq.heapify(order)
        while order:
            self.now, _, session, arrives = heapq.heappop(order)
            if arrives:
                waiting[session.name] = session
                woken.append(session.name)
            else:
                capacity.release(session.name)
            while woken:
                asking = waiting.get(woken.pop(0))
                if asking is not None and self._asks(capacity, asking):
                    del waiting[asking.name]
                    self.waits[asking.class_name].append(self.now - asking.arrives_at)
                    self.longest_turn = max(self.longest_turn, asking.turn_seconds)
                    heapq.heappush(order, (self.now + asking.turn_seconds, len(sessions), asking, False))
                    sessions.append(asking)
        return self

    def _asks(self, capacity: Capacity, session: Session) -> bool:
        class_name = session.class_name if self.shares is not None else ""
        since = START + timedelta(seconds=session.arrives_at)
        return capacity.ask(session.name, since, class_name=class_name)


def arrivals(flood: int, quiet: int, every: float, turn_seconds: float, seed: int) -> list[Session]:
    """Return a flood that arrives within ten seconds, and then single sessions of the quiet class."""
    chance = random.Random(seed)

    def turn() -> float:
        return chance.uniform(0.5, 1.5) * turn_seconds

    floods = [Session(f"flood-{each:04}", FLOOD, chance.uniform(0, 10), turn()) for each in range(flood)]
    return floods + [Session(f"quiet-{each:04}", QUIET, 15 + each * every, turn()) for each in range(quiet)]


def waits(flood: int) -> dict[str, Run]:
    """Play a flood of this size with each way to share."""
    return {
        title: Run(SLOTS, shares).play(arrivals(flood, QUIET_SESSIONS, EVERY_SECONDS, TURN_SECONDS, SEED))
        for title, shares in SHARES.items()
    }


async def measure() -> list[Figure]:
    """Play every size of the flood."""
    found: list[Figure] = []
    for flood in SCALES:
        runs = waits(flood)
        longest_turn = max(run.longest_turn for run in runs.values())
        for title, run in runs.items():
            quiet = run.waits[QUIET]
            share = "p95" if run.shares is None or title == WEIGHTED else "longest"
            bound = run.shares is not None and title != WEIGHTED
            found.append(
                Figure(
                    key=f"wait-{KEYS[title]}",
                    name=f"wait of the quiet class, {share}; {title}",
                    value=max(quiet) if bound else statistics.quantiles(quiet, n=20, method="inclusive")[-1],
                    unit="s",
                    scale=flood,
                    limit=longest_turn,
                    limit_is="the longest turn",
                    goal=1.0 if bound else None,
                )
            )
    return found
