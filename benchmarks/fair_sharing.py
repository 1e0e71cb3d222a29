"""Measures how long a quiet class waits for a slot during a flood from another class, before and after.

Before: all sessions are in one queue, as without classes. After: the two classes share the slots, once by
equal weights and once with guaranteed slots. The clock is simulated, and the capacity is the operator's. The
exit code is 1 if the quiet class waited longer than one slot's turn: `python benchmarks/fair_sharing.py`.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from managed_session_operator.capacity.class_shares import ClassShare
from managed_session_operator.capacity.slots import Capacity

WEIGHTED = "flood has weight 4"
"""The shares with which the quiet class needs more slots than its part."""
START = datetime(2026, 1, 1, tzinfo=UTC)
FLOOD, QUIET = "flood", "quiet"
SHARES = {
    "one queue (before)": None,
    "equal weights": {FLOOD: ClassShare(), QUIET: ClassShare()},
    WEIGHTED: {FLOOD: ClassShare(weight=4), QUIET: ClassShare()},
    "and quiet is guaranteed 8": {FLOOD: ClassShare(weight=4), QUIET: ClassShare(guaranteed_slots=8)},
}


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


def row(title: str, waits: list[float], before: float) -> str:
    """Return a line of the table."""
    middle, most = statistics.median(waits), max(waits)
    p95 = statistics.quantiles(waits, n=20, method="inclusive")[-1]
    ratio = f"{before / middle:11.1f}x" if middle else f"{'-':>12}"
    return f"{title:<30}{middle:9.1f}{p95:9.1f}{most:9.1f}{ratio}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--flood", type=int, default=500, help="sessions of the flood")
    parser.add_argument("--quiet", type=int, default=80, help="sessions of the quiet class")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two of them")
    parser.add_argument("--slots", type=int, default=20, help="sandbox slots")
    parser.add_argument("--turn", type=float, default=30.0, help="mean seconds that a turn has a slot")
    parser.add_argument("--seed", type=int, default=11, help="seed of the times")
    given = parser.parse_args()
    runs = {
        title: Run(given.slots, shares).play(
            arrivals(given.flood, given.quiet, given.every, given.turn, given.seed)
        )
        for title, shares in SHARES.items()
    }
    before = {name: statistics.median(next(iter(runs.values())).waits[name]) for name in (QUIET, FLOOD)}
    print(
        f"{given.quiet} sessions of a quiet class, one every {given.every:g} s, during a flood of "
        f"{given.flood}; {given.slots} slots, turns of {given.turn:g} s on average"
    )
    for name in (QUIET, FLOOD):
        print(f"\n{f'wait of the {name} class, in s':<30}{'p50':>9}{'p95':>9}{'max':>9}{'p50 ratio':>12}")
        for title, run in runs.items():
            print(row(title, run.waits[name], before[name]))
    longest_turn = max(run.longest_turn for run in runs.values())
    shared = {title: run.waits[QUIET] for title, run in runs.items() if run.shares is not None}
    first = max(waits[0] for waits in shared.values())
    print("\nlimit for the first session of the quiet class, and for all of them while its share is enough:")
    print(f"one turn, {longest_turn:.1f} s (the first waited for at most {first:.1f} s)")
    enough = [max(waits) for title, waits in shared.items() if title != WEIGHTED]
    return 0 if max(first, *enough) <= longest_turn else 1


if __name__ == "__main__":
    sys.exit(main())
