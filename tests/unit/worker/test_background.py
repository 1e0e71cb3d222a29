"""Background processes of the agent, and shells that end."""

import re
import signal
from pathlib import Path

import pytest

from ...support.waiting import wait_until
from .worker_sandbox import FIRST, SECOND, THIRD, Sandbox, alive
from .worker_wire import Wire

SERVER = "python3 -u -c $'import time\\nwhile 1: print(1); time.sleep(.02)' & echo $!"


def log_of(result: str) -> Path:
    """Return the file that a result names."""
    found = re.search(r"their output: (\S+)", result)
    assert found is not None, result
    return Path(found[1])


def test_a_started_server_outlives_the_turn_and_the_result_says_where_its_output_is(
    sandbox: Sandbox, wire: Wire
) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    result, is_error = wire.run(SERVER)
    assert not is_error
    pid, log = int(result.splitlines()[0]), log_of(result)
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    written = log.stat().st_size
    wait_until(lambda: log.stat().st_size > written, "nobody keeps the server's output")
    sandbox.start(SECOND).event("heartbeat")
    wire.say()
    assert wire.run(f"kill -0 {pid} && tail -c 1 {log} | wc -c") == ("1", False)
    worker = sandbox.supervisorctl("status").event("status")["running"]["pid"]
    assert log.stat().st_uid == Path(f"/proc/{worker}").stat().st_uid
    sandbox.start(THIRD).event("heartbeat")
    assert alive(pid), "no call of the superseded worker was unfinished"


def test_a_result_has_only_the_output_of_its_own_command(sandbox: Sandbox, wire: Wire) -> None:
    sandbox.start()
    wire.say()
    first, is_error = wire.run("(seq 1 200000) & echo ok")
    assert "ok" in first.splitlines()
    assert not is_error
    assert wire.run("echo hello") == ("hello", False)
    log = log_of(first)
    wait_until(lambda: log.read_bytes().endswith(b"\n200000\n"))
    assert len(re.findall(r"\d+", log.read_text())) == 200000


def test_a_result_does_not_wait_for_background_processes_and_an_ended_shell_is_replaced(
    sandbox: Sandbox, wire: Wire
) -> None:
    sandbox.start()
    wire.say()
    result, is_error = wire.run("export KEPT=1; echo before; (sleep 1000 & echo $! > left.pid); exit 3")
    assert alive(int(Path(sandbox.paths.workdir, "left.pid").read_text()))
    assert is_error
    assert result.startswith("before\n[processes go on in the background")
    assert result.endswith("[the shell has ended: exit status 3; the next command gets a new shell]")
    result, is_error = wire.run('echo "hello $KEPT."')
    assert not is_error
    assert result.startswith("[a new shell in ")
    assert "exit status 3" in result
    assert result.splitlines()[-1] == "hello ."
    assert wire.run("echo hello") == ("hello", False)


def test_after_a_timeout_the_next_call_has_a_new_shell_and_earlier_background_processes_live(
    sandbox: Sandbox, wire: Wire
) -> None:
    sandbox.start()
    wire.say()
    server = int(wire.run("sleep 1000 >/dev/null 2>&1 & echo $!")[0])
    result, is_error = wire.run("(sleep 1000; echo late) & echo $!; echo begun; sleep 1000", timeout_ms=3000)
    assert is_error
    assert result.startswith("bash: bash command timed out after 3.0s\n")
    pid = int(result.splitlines()[1])
    assert "\nbegun\n" in result
    result, is_error = wire.run("echo hello")
    assert (result.splitlines()[-1], is_error) == ("hello", False)
    assert "its command timed out" in result
    assert not alive(pid)
    assert alive(server)


def test_a_shell_that_was_killed_is_replaced(sandbox: Sandbox, wire: Wire) -> None:
    sandbox.start()
    wire.say()
    result, is_error = wire.run("echo dying; kill -9 $$")
    assert is_error
    assert result.splitlines()[0] == "dying"
    assert f"killed by signal {signal.SIGKILL.value}" in result
    assert wire.run("echo hello")[0].splitlines()[-1] == "hello"
    # A process that an earlier call left kills the shell between two calls.
    left_behind = "(until test -e die; do sleep 0.05; done; kill -9 $$) >/dev/null 2>&1 &"
    shell = int(wire.run(f"echo $$; {left_behind} true")[0])
    Path(sandbox.paths.workdir, "die").touch()
    wait_until(lambda: not alive(shell))
    result, is_error = wire.run("echo hello")
    assert (result.splitlines()[-1], is_error) == ("hello", False)
    assert result.startswith("[a new shell in ")


def test_a_signal_to_the_whole_process_group_does_not_reach_the_worker(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    wire.say()
    assert wire.run("kill -9 0")[1]
    assert wire.run("echo hello")[0].splitlines()[-1] == "hello"
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


@pytest.mark.parametrize("command", ["yes", "yes & yes & sleep 0.5", "yes | cat"])
def test_endless_output_blocks_neither_its_call_nor_the_next_ones(
    sandbox: Sandbox, wire: Wire, command: str
) -> None:
    client = sandbox.start()
    wire.say()
    result, _ = wire.run(command, timeout_ms=3000)
    assert "[output truncated]" in result
    assert wire.run("pkill -9 yes; echo hello")[0].splitlines()[-1] == "hello"
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


def test_the_folder_of_pipes_may_be_removed_and_is_removed_when_empty(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    wire.say()
    folder, _ = wire.run("dirname $(readlink /proc/$$/fd/1)")
    assert Path(folder).is_dir()
    assert wire.run(f"rm -rf {folder}; echo removed") == ("removed", False)
    assert wire.run("echo hello") == ("hello", False)
    folder, _ = wire.run("dirname $(readlink /proc/$$/fd/1)")
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    assert not Path(folder).exists()
