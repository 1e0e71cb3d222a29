"""A worker that waits for its session's user is frozen with its sandbox until its lease has lapsed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ...support.waiting import wait_until
from .test_user_wait import ASKED, ask, waits
from .worker_sandbox import SECOND, Sandbox, Supervisorctl, alive
from .worker_wire import Wire

ONCE = {**ASKED, "input": {"command": "echo x >> runs; cat runs"}}


def frozen_while_it_waits(sandbox: Sandbox, wire: Wire) -> tuple[Supervisorctl, int, str, int]:
    """Return a frozen worker whose lease has lapsed, its PID, the call that is answered, and a job's PID."""
    wire.lease_seconds = 3
    client = sandbox.start()
    wire.say()
    job = int(wire.run("sleep 971 > /dev/null 2>&1 & echo $!")[0])
    call = ask(wire, **ONCE)
    wait_until(lambda: waits(client) != [])
    worker = int(client.event("accepted")["pid"])
    os.kill(worker, signal.SIGSTOP)
    lapsed_at = os.times().elapsed + wire.lease_seconds + 1
    wait_until(lambda: os.times().elapsed > lapsed_at)
    wire.emit("user.tool_confirmation", tool_use_id=call, result="allow")
    return client, worker, call, job


def test_it_serves_the_answer_without_a_lease_if_nobody_else_can(sandbox: Sandbox, wire: Wire) -> None:
    client, worker, call, job = frozen_while_it_waits(sandbox, wire)
    wire.after_stop, wire.stopped = "stopped", True
    os.kill(worker, signal.SIGCONT)
    client.event("late")
    wire.wait_for(lambda: wire.result(call) is not None)
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["resultsPosted"]) == ("Idle", 2)
    assert Path(sandbox.paths.workdir, "runs").read_text() == "x\n"
    assert wire.count("POST", "/stop") == 0
    assert alive(job)
    os.kill(job, signal.SIGKILL)


def test_it_leaves_the_answer_to_the_next_worker_if_the_work_is_queued(sandbox: Sandbox, wire: Wire) -> None:
    client, worker, call, job = frozen_while_it_waits(sandbox, wire)
    wire.after_stop, wire.stopped = "queued", True
    os.kill(worker, signal.SIGCONT)
    assert client.record()["reason"] == "Thawed"
    assert wire.count("POST", "/stop") == 0, "the queued item is not its own"
    assert wire.result(call) is None
    assert not Path(sandbox.paths.workdir, "runs").exists()
    assert alive(job), "no call was cut off, so nothing has to be killed"
    os.kill(job, signal.SIGKILL)


def test_next_worker_takes_over_from_it_and_keeps_the_jobs_of_finished_calls(
    sandbox: Sandbox, wire: Wire
) -> None:
    client, _, call, job = frozen_while_it_waits(sandbox, wire)
    wire.after_stop, wire.stopped = None, False
    wire.lease_seconds = 60
    second = sandbox.start(SECOND)
    assert client.record()["reason"] == "Superseded"
    wire.wait_for(lambda: wire.result(call) is not None)
    wire.end_turn()
    assert second.record()["reason"] == "Idle"
    assert Path(sandbox.paths.workdir, "runs").read_text() == "x\n"
    assert alive(job)
    os.kill(job, signal.SIGKILL)


def test_call_of_another_thread_ends_with_the_worker_that_waits(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    wire.say()
    pid = Path(sandbox.paths.workdir, "pid")
    wire.call_of_thread("setsid sleep 972 & echo $! > new; mv new pid; wait", waits=False)
    wait_until(pid.exists)
    ask(wire, **ONCE)
    wait_until(lambda: waits(client) != [])
    os.kill(int(client.event("accepted")["pid"]), signal.SIGSTOP)
    sandbox.start(SECOND)
    record = client.record()
    assert not alive(int(pid.read_text()))
    assert record["reason"] == "Superseded"
    assert "took over" not in str(record["callDeaths"]), "the agent is told what ended the call"
