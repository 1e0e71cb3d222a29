import stat
import time
from pathlib import Path

from managed_session_worker.worker_log import MAX_BYTES

from .worker_sandbox import FIRST, SECOND, Sandbox
from .worker_wire import Wire


def test_the_exit_record_is_complete_when_little_is_logged(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(logLevel="ERROR")
    wire.say()
    wire.run("true")
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["message"], record["toolCalls"]) == ("Idle", "the session was idle", 1)
    assert "executing tool" not in sandbox.log()


def test_a_full_log_is_rotated_when_a_claim_starts(sandbox: Sandbox) -> None:
    log = Path(sandbox.paths.worker_log)
    with log.open("w") as file:
        file.truncate(MAX_BYTES + 1)
    sandbox.start().event("heartbeat")
    assert log.stat().st_size < MAX_BYTES
    assert log.with_name("worker.log.1").stat().st_size > MAX_BYTES


def test_files_in_place_of_directories_do_not_end_a_session(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    wire.run("rm -rf outputs skills; touch outputs; ln -s /nowhere skills")
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    sandbox.start(SECOND).event("heartbeat")


def test_the_supervisor_has_one_thread_and_no_listening_network_socket(sandbox: Sandbox) -> None:
    sandbox.start().event("heartbeat")
    assert sandbox.supervisor is not None
    process = Path(f"/proc/{sandbox.supervisor.pid}")
    assert len(list((process / "task").iterdir())) == 1
    inodes = {str(entry.readlink()) for entry in (process / "fd").iterdir()}
    listening = [
        f"socket:[{line.split()[9]}]"
        for table in ("tcp", "tcp6")
        for line in (process / "net" / table).read_text().splitlines()[1:]
    ]
    assert not inodes & set(listening)
    assert stat.S_IMODE(Path(sandbox.paths.socket).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(sandbox.paths.run).stat().st_mode) == 0o700


def test_a_turn_runs_from_the_first_heartbeat_to_an_idle_exit_record(sandbox: Sandbox, wire: Wire) -> None:
    started = time.monotonic()
    client = sandbox.start()
    assert client.event("accepted")["claim"] == FIRST
    accepted = time.monotonic()
    client.event("heartbeat")
    print(f"start to accepted {accepted - started:.3f} s, to heartbeat {time.monotonic() - started:.3f} s")
    wire.say()
    output, is_error = wire.run("echo $((6*7)); pwd; echo $FROM_THE_SANDBOX")
    assert (output, is_error) == (f"42\n{sandbox.paths.workdir}\nyes", False)
    assert wire.run("false")[1]
    wire.end_turn()
    record = client.record()
    assert record["reason"] == "Idle"
    assert (record["exitCode"], record["signal"]) == (0, None)
    assert (record["toolCalls"], record["toolErrors"], record["resultsPosted"]) == (2, 1, 2)
    assert record["resultsRefused"] == 0
    assert record["startedAt"] <= record["firstHeartbeatAt"] <= record["finishedAt"]
    assert Path(sandbox.paths.exits, f"{FIRST}.json").exists()
    assert wire.count("POST", "/stop") == 1
    assert "executing tool tool=bash" in sandbox.log()
    assert "posted result tool_use_id=" in sandbox.log()


def test_a_call_older_than_the_worker_runs_even_if_reading_the_history_fails_often(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.say()
    call = wire.call("echo served")
    wire.unreadable_histories = 4
    client = sandbox.start()
    wire.wait_for(lambda: wire.result(call) is not None)
    assert wire.count("GET", "/events/stream") == 1
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
