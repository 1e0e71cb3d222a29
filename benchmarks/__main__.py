"""Measures everything, and writes docs/benchmarks.md with figures and plots: `make bench`.

Each benchmark runs in a process of its own, one after the other, and for a limited time. One that fails is
shown on the page, the others still run, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks import machine, page
from benchmarks.catalog import BENCHMARKS, Benchmark, by_name
from benchmarks.figures import RESULTS, Figure, NotMeasuredError, Result, committed, from_json, to_json

GRACE_SECONDS = 30.0
"""How long an interrupted benchmark may take to stop its processes."""
LONGEST_ERROR = 300
INTERRUPTED = 130
"""Exit code after a SIGINT, as shells have it."""


def measure(benchmark: Benchmark) -> Result:
    """Run a benchmark in this process."""
    began, error, skipped = time.monotonic(), None, None
    figures: list[Figure] = []
    try:
        figures = asyncio.run(benchmark.measure())
    except NotMeasuredError as reason:
        skipped = str(reason)
    except Exception as failure:  # noqa: BLE001 - whatever it is, the page says so
        error = f"{type(failure).__name__}: {failure}"[:LONGEST_ERROR]
    return Result(
        at=datetime.now(UTC).date().isoformat(),
        seconds=time.monotonic() - began,
        machine=machine.describe(),
        figures=figures,
        error=error,
        skipped=skipped,
    )


def run_apart(benchmark: Benchmark) -> Result:
    """Run a benchmark in a process of its own, and end it with all that it has started."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        began = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "--into", str(file), "--only", benchmark.name]
        ) as process:
            error = _wait(process, benchmark.limit_seconds)
        if file.exists() and error is None:
            return from_json(file.read_text())[benchmark.name]
        return Result(
            at=datetime.now(UTC).date().isoformat(),
            seconds=time.monotonic() - began,
            machine=machine.describe(),
            error=error or f"its process ended with status {process.returncode}",
        )


def _wait(process: subprocess.Popen[bytes], seconds: float) -> str | None:
    """Wait for the process. Return why it was ended, or None. Nothing that it has started is left."""
    root = psutil.Process(process.pid)
    try:
        process.wait(seconds)
        return None
    except subprocess.TimeoutExpired:
        started = root.children(recursive=True)
        process.send_signal(signal.SIGINT)
        psutil.wait_procs([root], timeout=GRACE_SECONDS)
        for each in (root, *started):
            if each.is_running():
                each.kill()
        return f"not within {seconds:.0f} s"


def run_all(chosen: Sequence[Benchmark]) -> dict[str, Result]:
    """Run benchmarks one after the other, and print how they go. Keep the results of the others."""
    results = committed()
    for number, benchmark in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {benchmark.name}: {benchmark.title} ...", flush=True)
        result = results[benchmark.name] = run_apart(benchmark)
        print(_line(result), flush=True)
        RESULTS.write_text(to_json(_in_order(results)))
    return _in_order(results)


def _in_order(results: dict[str, Result]) -> dict[str, Result]:
    return {each.name: results[each.name] for each in BENCHMARKS if each.name in results}


def _line(result: Result) -> str:
    if result.error is not None:
        return f"  FAILED after {result.seconds:.0f} s: {result.error}"
    if result.skipped is not None:
        return f"  not measured: {result.skipped}"
    missed = [figure.name for figure in result.figures if figure.reached is False]
    goals = f"; goals missed: {', '.join(missed)}" if missed else ""
    return f"  {len(result.figures)} figures in {result.seconds:.0f} s{goals}"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--list", action="store_true", help="list the benchmarks and end")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="run only these; the others keep their results"
    )
    parser.add_argument(
        "--render", action="store_true", help="write the page and the plots anew, measure nothing"
    )
    parser.add_argument("--into", type=Path, metavar="FILE", help="run one here, and write only its results")
    given = parser.parse_args()
    if given.list:
        for each in BENCHMARKS:
            print(f"{each.name:<14}{each.title}")
        return 0
    unknown = set(given.only or ()) - {each.name for each in BENCHMARKS}
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; --list shows all")
    chosen = [by_name(name) for name in given.only] if given.only else list(BENCHMARKS)
    if given.into is not None:
        # A shell ignores it for what it runs in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            given.into.write_text(to_json({each.name: measure(each) for each in chosen}))
        except KeyboardInterrupt:
            return INTERRUPTED
        return 0
    results = committed() if given.render else run_all(chosen)
    page.write(results)
    failed = [name for name, result in results.items() if result.error is not None]
    print(
        f"{page.PAGE.relative_to(page.ROOT)} is written"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
