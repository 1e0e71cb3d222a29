"""What a plan's sections can rely on: programs with a limit of time, and a record that survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from managed_session_worker.paths import Paths
from managed_session_worker.preparation.sandbox import Sandbox
from managed_session_worker.privileges import Account

RUN = """
import os, sys
from managed_session_worker import processes
from managed_session_worker.preparation import run
from managed_session_worker.preparation.sandbox import SectionFailedError

def fine(content, sandbox):
    sandbox.set_done("fine", content["value"])

def warning(content, sandbox):
    sandbox.warn("a.b", "it is slow", "output")

def failing(content, sandbox):
    raise SectionFailedError("c[0]", "it failed", "the end")

def faulty(content, sandbox):
    raise ValueError(content["secret"])

def full(content, sandbox):
    raise OSError(28, "No space left on device")

def slow(content, sandbox):
    finished = sandbox.run_as_agent(["/bin/bash", "-c", content["script"]], seconds=1)
    below = processes.descendants(processes.process_table(), {os.getpid()})
    sandbox.warn("slow", f"{finished.status} {[each.pid for each in below if each.alive]}", finished.output)

sections = dict(fine=fine, warning=warning, failing=failing, faulty=faulty, full=full, slow=slow)
run.main(sys.argv[1], sections)
"""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An empty sandbox."""
    paths = Paths(str(tmp_path))
    for folder in (paths.run, paths.workdir):
        Path(folder).mkdir(parents=True)
    return paths


@pytest.fixture
def sandbox(paths: Paths) -> Sandbox:
    """An empty sandbox in which this process runs programs."""
    return Sandbox(paths, Account.find(str(os.geteuid())))


def run(paths: Paths, *sections: tuple[str, dict[str, Any]], seconds: float = 30) -> dict[str, Any]:
    """Run a plan in a process of its own and return its report."""
    plan = Path(paths.plan("1"))
    plan.write_text(json.dumps({"seconds": seconds, "sections": sections}))
    ended = subprocess.run(
        [sys.executable, "-c", RUN, str(plan)],
        env={**os.environ, "MANAGED_SESSION_ROOT": paths.root},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not plan.exists(), "the plan may hold secrets"
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def test_the_sections_of_a_plan_run_until_one_fails(paths: Paths, sandbox: Sandbox) -> None:
    done = ("fine", {"value": "1"})
    report = run(paths, ("warning", {}), ("failing", {}), done)
    assert report == {
        "failed": {"section": "failing", "step": "c[0]", "why": "it failed", "output": "the end"},
        "warnings": [{"section": "warning", "step": "a.b", "why": "it is slow", "output": "output"}],
    }
    assert sandbox.done("fine") is None
    assert run(paths, done) == {"failed": None, "warnings": []}
    assert sandbox.done("fine") == "1"


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ("unknown", "this section is unknown"),
        ("full", "No space left on device"),
        ("faulty", "unexpected ValueError in faulty, line"),
    ],
)
def test_an_unexpected_failure_is_reported_without_its_text(paths: Paths, section: str, why: str) -> None:
    failed = run(paths, (section, {"secret": "s3cret"}))["failed"]
    assert failed["section"] == section
    assert failed["why"].startswith(why)
    assert "s3cret" not in json.dumps(failed)


def test_a_plan_that_an_earlier_operator_left_is_removed_and_that_of_another_leader_stays(
    paths: Paths,
) -> None:
    old, new = Path(paths.plan("0")), Path(paths.plan("2"))
    for each in (old, new):
        each.write_text("{}")
    long_ago = time.time() - 1000
    os.utime(old, (long_ago, long_ago))
    assert run(paths)["failed"] is None
    assert (old.exists(), new.exists()) == (False, True)


def test_the_record_survives_being_cut_short(paths: Paths, sandbox: Sandbox) -> None:
    sandbox.set_done("one", "1")
    Path(paths.preparation_record).with_suffix(".new").write_text("{")
    sandbox.set_done("two", "2")
    assert (sandbox.done("one"), sandbox.done("two")) == ("1", "2")
    Path(paths.preparation_record).write_text("no JSON")
    assert sandbox.done("one") is None


def test_a_program_runs_in_the_sessions_directory_with_the_agents_variables(sandbox: Sandbox) -> None:
    given = Sandbox(sandbox.paths, sandbox.account, {"GREETING": "hello"})
    finished = given.run_as_agent(
        ["/bin/bash", "-c", 'echo "$GREETING $NAME $PWD"; cat'],
        seconds=30,
        stdin=b"x" * 300_000 + b"end",
        env={"NAME": "agent"},
    )
    assert finished.succeeded
    assert finished.output.endswith("xxend")
    short = given.run_as_agent(["/bin/bash", "-c", 'echo "$GREETING $PWD"; exit 3'], seconds=30)
    assert (short.status, short.output) == (3, f"hello {given.paths.workdir}")


def test_a_program_that_does_not_exist_fails(sandbox: Sandbox) -> None:
    finished = sandbox.run_as_root(["/does/not/exist"], seconds=5)
    assert (finished.status, "No such file" in finished.output) == (127, True)


def test_a_program_ends_with_its_own_process_and_its_background_processes_live_on(sandbox: Sandbox) -> None:
    finished = sandbox.run_as_agent(["/bin/bash", "-c", "sleep 300 & echo $!"], seconds=100)
    assert finished.succeeded
    pid = int(finished.output)
    os.kill(pid, signal.SIGKILL)  # Raises if it has ended.


def test_a_program_that_takes_too_long_is_killed_with_all_it_has_started(paths: Paths) -> None:
    script = "setsid sleep 300 & (sleep 300 &); echo started; yes > /dev/null"
    [warning] = run(paths, ("slow", {"script": script}))["warnings"]
    assert (warning["why"], warning["output"]) == ("None []", "started")
