"""The agent's shells outlive workers, and nothing that an agent does to them stops the next turn."""

import re
import signal
from pathlib import Path

import pytest

from ...support.waiting import wait_until
from .worker_sandbox import FIRST, SECOND, THIRD, Process, Sandbox, Supervisorctl, alive
from .worker_wire import Wire

PREPARE = (
    "cd /tmp; export A=1; b='two words'; f() { echo \"f $1\"; }; shopt -s expand_aliases; alias g='f of'"
)
ASK = "pwd; echo $A $b\nf x\ng"
ANSWER = "/tmp\n1 two words\nf x\nf of"


def ends(wire: Wire, client: Supervisorctl) -> None:
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


def host_of(wire: Wire) -> int:
    """The process that the agent's shells belong to."""
    return int(wire.run("echo $PPID")[0].splitlines()[-1])


def test_the_shell_goes_on_after_a_workers_end(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    assert wire.run(PREPARE) == ("(no output)", False)
    server, job = wire.run("sleep 1000 >/dev/null 2>&1 & echo $!; nohup sleep 999 >/dev/null 2>&1 & echo $!")[
        0
    ].splitlines()
    ends(wire, client)
    sandbox.start(SECOND)
    wire.say()
    assert wire.run(ASK) == (ANSWER, False)
    assert "sleep 1000" in wire.run("jobs")[0]
    assert wire.run(f"kill {server} {job}; wait {server}; echo $?") == ("143", False)


def test_an_activated_virtual_environment_stays_active(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    assert not wire.run("python3 -m venv --without-pip .venv; source .venv/bin/activate")[1]
    ends(wire, client)
    sandbox.start(SECOND)
    wire.say()
    venv = f"{sandbox.paths.workdir}/.venv"
    assert wire.run("command -v python3; echo $VIRTUAL_ENV") == (f"{venv}/bin/python3\n{venv}", False)


def test_shell_and_background_processes_survive_a_worker_that_ends_outside_a_call(
    sandbox: Sandbox, wire: Wire
) -> None:
    """The next claim supersedes a worker that waits, and the one after it one that was killed."""
    sandbox.start(FIRST)
    wire.say()
    pid = int(wire.run(f"{PREPARE}; (setsid sleep 1000 >/dev/null 2>&1 & echo $!)")[0])
    worker = sandbox.start(SECOND).event("accepted")["pid"]
    wire.say()
    assert wire.run(ASK) == (ANSWER, False)
    Process(worker).send(signal.SIGKILL)
    sandbox.start(THIRD)
    wire.say()
    assert wire.run(ASK) == (ANSWER, False)
    assert alive(pid)


def test_the_command_that_runs_is_dead_before_the_next_worker_starts_and_the_next_shell_is_new(
    sandbox: Sandbox, wire: Wire
) -> None:
    """Also what it has detached. What an earlier command has started lives on."""
    sandbox.start(FIRST)
    wire.say()
    server = int(wire.run("sleep 1000 >/dev/null 2>&1 & echo $!")[0])
    call = wire.call("test -e began && echo again || { (setsid sleep 1000 & echo $! >began); sleep 1000; }")
    began = Path(sandbox.paths.workdir, "began")
    wait_until(lambda: began.exists() and began.read_text().strip())
    new = sandbox.start(SECOND)
    new.event("accepted")
    assert not alive(int(began.read_text()))
    assert alive(server)
    wire.wait_for(lambda: wire.result(call) is not None)
    result = wire.result(call)
    assert result is not None
    first, *_, last = str(result["content"][0]["text"]).splitlines()
    assert first.startswith("[a new shell in ")
    assert last == "again"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_host_that_the_agent_ends_or_stops_between_turns_costs_its_shells_at_most(
    sandbox: Sandbox, wire: Wire, number: signal.Signals
) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    wire.run(PREPARE)
    server = int(wire.run("sleep 1000 >/dev/null 2>&1 & echo $!")[0])
    host = host_of(wire)
    ends(wire, client)
    Process(host).send(number)
    client = sandbox.start(SECOND)
    wire.say()
    result, is_error = wire.run("pwd")
    assert not is_error
    if number == signal.SIGKILL:
        assert result.splitlines()[0].startswith("[a new shell in ")
        assert result.splitlines()[-1] == sandbox.paths.workdir
        assert not alive(host)
    else:
        assert result == "/tmp"
    assert alive(server)
    ends(wire, client)


def test_a_host_that_is_killed_during_a_command_is_replaced_and_the_command_is_dead(
    sandbox: Sandbox, wire: Wire
) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    wire.run("x=1")
    result, is_error = wire.run("sleep 1000 & echo $! > pid; kill -9 $PPID; sleep 1000")
    assert is_error
    assert result.startswith("[the shell has ended: ")
    pid = int(Path(sandbox.paths.workdir, "pid").read_text())
    wait_until(lambda: not alive(pid))
    result, is_error = wire.run('echo "hello$x"')
    assert (result.splitlines()[-1], is_error) == ("hello", False)
    assert result.startswith("[a new shell in ")
    assert wire.run("echo hello") == ("hello", False)
    ends(wire, client)


def test_a_host_that_is_stopped_during_a_command_goes_on(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    assert wire.run("kill -STOP $PPID; echo hello") == ("hello", False)
    ends(wire, client)


def test_a_host_whose_limits_were_lowered_is_replaced(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    host = host_of(wire)
    wire.run(f"prlimit --pid {host} --nofile=3:3")
    wire.run("echo hello")
    assert wire.run("echo hello")[0].splitlines()[-1] == "hello"
    host = host_of(wire)
    wire.run(f"prlimit --pid {host} --nproc=1:1")
    ends(wire, client)
    client = sandbox.start(SECOND)
    wire.say()
    assert wire.run("echo $(echo hello)")[0].splitlines()[-1] == "hello"
    assert host_of(wire) != host
    ends(wire, client)


def test_a_host_that_may_open_no_file_is_replaced_at_the_next_turn(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    host = host_of(wire)
    wire.run(f"prlimit --pid {host} --nofile=3:3")
    ends(wire, client)
    sandbox.start(SECOND)
    wire.say()
    assert wire.run("echo hello")[0].splitlines()[-1] == "hello"
    assert host_of(wire) != host


def test_directory_that_the_agent_has_closed_to_itself_is_open_to_the_next_worker(
    sandbox: Sandbox, wire: Wire
) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    wire.run("chmod 000 .")
    ends(wire, client)
    sandbox.start(SECOND).event("heartbeat")
    wire.say()
    assert wire.run("touch here; echo hello")[0].splitlines()[-1] == "hello"


def test_a_stopped_supervisor_leaves_no_shell_host(sandbox: Sandbox, wire: Wire) -> None:
    sandbox.start(FIRST)
    wire.say()
    host = host_of(wire)
    server = int(wire.run("sleep 1000 >/dev/null 2>&1 & echo $!")[0])
    assert sandbox.supervisor is not None
    sandbox.supervisor.send(signal.SIGTERM)
    sandbox.supervisor.wait()
    wait_until(lambda: not alive(host) and not alive(server))


def test_a_killed_supervisors_shells_end_and_the_next_command_says_so(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    assert wire.run("x=1") == ("(no output)", False)
    host = host_of(wire)
    ends(wire, client)
    assert sandbox.supervisor is not None
    sandbox.supervisor.send(signal.SIGKILL)
    sandbox.supervisor.wait()
    wait_until(lambda: not alive(host))
    sandbox.start(SECOND)
    wire.say()
    result, is_error = wire.run("echo hello$x")
    assert (result.splitlines()[-1], is_error) == ("hello", False)
    assert re.match(r"\[a new shell in \S+: the one before has ended \(it is gone with", result)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("set -e; false; echo no", "[the shell has ended: exit status 1; the next command gets a new shell]"),
        ("exec >file; echo to file", ""),
        ("exit 3", "[the shell has ended: exit status 3; the next command gets a new shell]"),
        ("(sleep 25 &); exit 3", "exit status 3"),
        ("trap 'echo debug >&2' DEBUG; trap 'echo exit' EXIT; PROMPT_COMMAND='exit 9'; echo a", "a"),
        ("unset PATH; echo a", "a"),
        ("stty size", "stty"),
        ('echo "unbalanced', "unexpected EOF"),
        ("printf '\\xff\\x00\\xfe'; cat /bin/true", "ELF"),
        ('read line; echo "read: $line"', "read: "),
        ("sudo -i", ""),
        ("kill -9 $$; sleep 1", "killed by signal 9"),
        ("set -m; sleep 1000 & jobs; fg", "timed out"),
        ("kill -STOP $$; echo stopped", "timed out"),
        ("mkdir -p d; cd d; rmdir ../d; pwd; cat here", "No such file"),
        ("printf() { :; }; builtin() { :; }; echo a", "timed out"),
        ("exec 200>&- 201>&- 202>&- 203>&-; echo a", "a"),
        ("exec sleep 1000", "timed out"),
        ("head -c 100M /dev/zero | tr '\\0' x; echo end", "xend"),
        ("yes", "timed out"),
        (f": {'x' * 300_000}; echo long", "long"),
        ("setsid -f sleep 1000; disown -a; echo a", "a"),
    ],
)
def test_whatever_a_command_does_its_call_ends_and_the_next_one_is_served(
    sandbox: Sandbox, wire: Wire, command: str, expected: str
) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    result, _ = wire.run(command, timeout_ms=2000 if expected == "timed out" else 60_000)
    assert expected in result, result[-500:]
    ends(wire, client)
    client = sandbox.start(SECOND)
    wire.say()
    assert wire.run("echo hello")[0].splitlines()[-1] == "hello"
    ends(wire, client)
