"""A tool call that kills its worker runs a limited number of times, and is then answered with an error."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from managed_session_worker.call_deaths import counted, memory_kills, merged
from managed_session_worker.protocol import parse_call_deaths

from ...support.waiting import wait_until
from .worker_sandbox import FIRST, SECOND, THIRD, WORKER, Sandbox, alive
from .worker_wire import Wire

FOURTH = THIRD.replace("T165403", "T165404")
DEADLY = f"echo x >> runs; kill -9 {WORKER}; sleep 1000"


def served_to_death(sandbox: Sandbox, claim: str, **changes: Any) -> dict[str, Any]:
    """Start a worker for the open call, and return its exit record."""
    return sandbox.start(claim, **changes).record()


def runs(sandbox: Sandbox) -> int:
    return len(Path(sandbox.paths.workdir, "runs").read_text().splitlines())


def calls_of(sandbox: Sandbox) -> list[str]:
    """The calls that the worker runs, as its supervisor knows them."""
    running = sandbox.supervisorctl("status").event("status")["running"]
    return [call["id"] for call in running["calls"]]


def answer(wire: Wire, call: str) -> str:
    wire.wait_for(lambda: wire.result(call) is not None)
    result = wire.result(call)
    assert result is not None
    assert result["is_error"]
    return str(result["content"][0]["text"])


def test_after_three_deaths_the_call_is_answered_with_an_error_and_the_agent_continues(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.say()
    call = wire.call(DEADLY)
    for number, claim in enumerate((FIRST, SECOND, THIRD), start=1):
        record = served_to_death(sandbox, claim)
        assert (record["reason"], record["calls"][0]["id"]) == ("Killed", call)
        assert record["callDeaths"] == {
            call: {"tool": "bash", "deaths": number, "cause": f"killed (signal {signal.SIGKILL.value})"}
        }
    last = sandbox.start(FOURTH)
    assert last.event("accepted")["callDeaths"][call]["deaths"] == 3
    assert answer(wire, call) == (
        "This call ended the worker 3 times: killed (signal 9). It was not run again."
    )
    assert runs(sandbox) == 3
    assert wire.run("echo on")[0].splitlines()[-1] == "on"
    wire.end_turn()
    record = last.record()
    assert (record["reason"], record["callDeaths"]) == ("Idle", {})


def test_deaths_that_the_operator_has_counted_count_too(sandbox: Sandbox, wire: Wire) -> None:
    wire.say()
    call = wire.call(DEADLY)
    known = {call: {"tool": "bash", "deaths": 1, "cause": "its sandbox vanished"}}
    record = served_to_death(sandbox, FIRST, callDeaths=known, toolCallAttempts=2)
    assert record["callDeaths"][call]["deaths"] == 2
    sandbox.start(SECOND, toolCallAttempts=2)
    assert "ended the worker 2 times: killed (signal 9)" in answer(wire, call)
    assert runs(sandbox) == 1


def test_a_call_that_a_later_worker_finishes_is_no_longer_counted(sandbox: Sandbox, wire: Wire) -> None:
    wire.say()
    call = wire.call(f"test -e ran || {{ touch ran; kill -9 {WORKER}; sleep 1000; }}; echo served")
    assert served_to_death(sandbox, FIRST)["callDeaths"][call]["deaths"] == 1
    client = sandbox.start(SECOND)
    wire.wait_for(lambda: wire.result(call) is not None)
    later = wire.call(f"kill -9 {WORKER}; sleep 1000")
    assert list(client.record()["callDeaths"]) == [later]


def test_a_worker_that_hangs_in_a_call_and_is_superseded_counts(sandbox: Sandbox, wire: Wire) -> None:
    wire.say()
    call = wire.call(f"kill -STOP {WORKER}; sleep 1000")
    first = sandbox.start(FIRST)
    pid = first.event("accepted")["pid"]
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    assert sandbox.start(SECOND).event("accepted")["callDeaths"][call]["deaths"] == 1
    assert first.record()["callDeaths"][call]["cause"].startswith("it hung or froze")


def test_a_call_whose_supervisor_died_with_its_worker_counts(sandbox: Sandbox, wire: Wire) -> None:
    wire.say()
    call = wire.call("echo begun > begun; sleep 1000")
    client = sandbox.start(FIRST)
    wait_until(Path(sandbox.paths.workdir, "begun").exists)
    wait_until(lambda: calls_of(sandbox) == [call], "the supervisor knows of the call")
    assert sandbox.supervisor is not None
    sandbox.supervisor.send(signal.SIGKILL)
    sandbox.supervisor.wait()
    assert client.record()["callDeaths"] == {
        call: {"tool": "bash", "deaths": 1, "cause": "killed with its supervisor"}
    }
    assert sandbox.start(SECOND).event("accepted")["callDeaths"][call]["deaths"] == 1


def test_a_lease_lost_in_a_call_counts_and_a_clean_end_does_not(sandbox: Sandbox, wire: Wire) -> None:
    wire.lease_seconds = 6
    wire.say()
    client = sandbox.start(FIRST)
    client.event("heartbeat")
    call = wire.call("echo begun > begun; sleep 1000")
    wait_until(Path(sandbox.paths.workdir, "begun").exists)
    wire.heartbeat_status = 412
    record = client.record()
    assert (record["reason"], record["callDeaths"][call]["deaths"]) == ("LeaseLost", 1)


@pytest.fixture
def small(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A sandbox whose memory is limited by a control group, as in E2B."""
    groups = Path("/sys/fs/cgroup")
    unified = (groups / "cgroup.controllers").exists()
    group = groups / ("" if unified else "memory") / f"test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("control groups cannot be made here")
    limit, swap = (
        ("memory.max", "memory.swap.max") if unified else ("memory.limit_in_bytes", "memory.swappiness")
    )
    (group / limit).write_text(str(300 * 1024**2))
    if (group / swap).exists():
        (group / swap).write_text("0")
    assert sandbox.supervisor is not None
    (group / "cgroup.procs").write_text(str(sandbox.supervisor.pid))
    yield sandbox
    sandbox.supervisor.send(signal.SIGTERM)
    sandbox.supervisor.wait()
    wait_until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def with_endless_matches(sandbox: Sandbox) -> dict[str, str]:
    """Variables with which the tool `grep` fills the worker's memory."""
    ripgrep = Path(sandbox.paths.workdir).parent / "bin" / "rg"
    ripgrep.parent.mkdir()
    ripgrep.write_text("#!/bin/sh\nyes a | head -c 1500M\n")
    ripgrep.chmod(0o755)
    return {"PATH": f"{ripgrep.parent}:{os.environ['PATH']}"}


def grep(wire: Wire) -> str:
    return wire.emit("agent.tool_use", name="grep", input={"pattern": "."}, evaluated_permission="allow")


def out_of_memory(call: str) -> dict[str, Any]:
    return {call: {"tool": "grep", "deaths": 1, "cause": "out of memory (killed)"}}


def test_a_worker_that_the_kernel_killed_for_want_of_memory_is_told_apart(small: Sandbox, wire: Wire) -> None:
    wire.say()
    call = grep(wire)
    record = small.start(FIRST, with_endless_matches(small)).record()
    assert (record["reason"], record["signal"]) == ("Killed", signal.SIGKILL)
    assert record["callDeaths"] == out_of_memory(call)


def test_want_of_memory_is_told_apart_however_late_the_supervisor_hears_of_the_call(
    small: Sandbox, wire: Wire
) -> None:
    client = small.start(FIRST, with_endless_matches(small))
    client.event("heartbeat")
    worker = client.event("accepted")["pid"]
    assert small.supervisor is not None
    small.supervisor.send(signal.SIGSTOP)
    wire.say()
    call = grep(wire)
    wait_until(lambda: not alive(worker), "the worker is killed")
    small.supervisor.send(signal.SIGCONT)
    assert client.record()["callDeaths"] == out_of_memory(call)


@pytest.mark.parametrize(
    ("cgroup", "file", "content", "kills"),
    [
        ("0::/a/b\n", "groups/a/b/memory.events", "low 0\noom 4\noom_kill 3\n", 3),
        ("4:cpu,memory:/x\n0::/\n", "groups/memory/x/memory.oom_control", "under_oom 0\noom_kill 7\n", 7),
        ("0::/\n", "proc/vmstat", "pgfault 5\noom_kill 2\n", 2),
        ("0::/\n", "proc/vmstat", "pgfault 5\n", None),
    ],
)
def test_the_kernels_count_is_found_in_each_kind_of_control_group(
    tmp_path: Path, cgroup: str, file: str, content: str, kills: int | None
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)
    assert memory_kills(tmp_path / "proc", tmp_path / "groups") == kills


def test_two_counts_of_the_same_deaths_are_not_added() -> None:
    ours = counted({}, {"id": "a", "tool": "bash"}, "here")
    theirs = counted(counted(ours, {"id": "a", "tool": "bash"}, "there"), {"id": "b", "tool": "read"}, "x")
    assert merged(ours, theirs) == theirs
    assert merged(theirs, ours) == theirs
    many: dict[str, Any] = theirs
    for number in range(100):
        many = counted(many, {"id": str(number), "tool": "bash"}, "y" * 1000)
    assert len(many) == 20
    assert many["a"]["deaths"] == 2
    assert parse_call_deaths(many) == many
    assert parse_call_deaths({"a": {"deaths": "2"}}) is None
    assert parse_call_deaths([]) is None
