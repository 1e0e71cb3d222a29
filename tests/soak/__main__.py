"""`python -m tests.soak`: many sessions, all kinds of faults, one verdict."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from .run import Options, soak


def main() -> int:
    """Play a soak; the exit code is 0 only if every promise held."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--sessions", type=int, default=300, help="sessions in all, at most")
    parser.add_argument("--turns", type=int, default=10, help="turns of each session")
    parser.add_argument("--at-once", type=int, default=20, help="sessions side by side")
    parser.add_argument("--hands", type=int, default=3, help="hands of chaos")
    parser.add_argument("--seed", type=int, default=None, help="what all choices are drawn from")
    parser.add_argument(
        "--minutes", type=float, default=None, help="in all, start and end included; sessions are cut short"
    )
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1_000_000)
    options = Options(
        sessions=given.sessions,
        turns=given.turns,
        at_once=given.at_once,
        hands=given.hands,
        seed=seed,
        minutes=given.minutes,
    )
    return 0 if asyncio.run(soak(options)) else 1


if __name__ == "__main__":
    sys.exit(main())
