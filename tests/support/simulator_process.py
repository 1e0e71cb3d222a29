"""Starts one simulator as a process, without the rest of a local system."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 60
END_SECONDS = 120


@dataclass
class RunningSimulator:
    """A simulator that listens."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def simulator_process(
    name: str,
    folder: Path,
    *options: str,
    settings: dict[str, Any] | None = None,
    prefix: list[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningSimulator]:
    """Run a simulator on a free port until the context ends.

    Args:
        name: `anthropic` or `e2b`.
        folder: for its ready file and its settings.
        options: more options of its command line.
        settings: its settings; by default its own.
        prefix: what to put before the command.
        environment: all of its variables; by default those of this process.
    """
    ready, settings_file = folder / "ready.json", folder / "settings.json"
    ready.unlink(missing_ok=True)
    settings_file.write_text(json.dumps(settings or {}))
    command = [
        *(prefix or []), sys.executable, "-m", f"managed_session_devkit.simulators.{name}", "--port=0",
        f"--ready-file={ready}", f"--settings={settings_file}", *options,
    ]  # fmt: skip
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            assert process.poll() is None, "the simulator ended at its start"
            assert time.monotonic() < deadline, "the simulator did not start"
            time.sleep(0.01)
        yield RunningSimulator(json.loads(ready.read_text())["url"], process)
    finally:
        process.terminate()
        process.wait(END_SECONDS)
