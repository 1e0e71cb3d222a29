"""`python -m tests.soak`: plays many sessions under all kinds of faults, and judges the result."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from .run import Options, run_soak


def main() -> int:
    """Play a soak. Return 0 only if every promise held."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--sessions", type=int, default=300, help="maximum of sessions")
    parser.add_argument("--turns", type=int, default=10, help="turns per session")
    parser.add_argument("--at-once", type=int, default=20, help="concurrent sessions")
    parser.add_argument("--fault-loops", type=int, default=3, help="loops that inject faults")
    parser.add_argument("--seed", type=int, default=None, help="seed of all random choices")
    parser.add_argument(
        "--minutes", type=float, default=None, help="length with start and end; cuts sessions short"
    )
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1_000_000)
    options = Options(
        sessions=given.sessions,
        turns=given.turns,
        at_once=given.at_once,
        fault_loops=given.fault_loops,
        seed=seed,
        minutes=given.minutes,
    )
    return 0 if asyncio.run(run_soak(options)) else 1


if __name__ == "__main__":
    sys.exit(main())
