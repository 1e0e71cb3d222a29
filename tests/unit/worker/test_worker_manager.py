import json
import os
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from managed_session_worker import processes
from managed_session_worker.paths import SOCKET_NAME, within_directory
from managed_session_worker.supervisor_socket import MAX_CONNECTIONS
from managed_session_worker.workspace import RESERVE_BYTES

from ...support.waiting import wait_until
from .worker_sandbox import FIRST, SECOND, THIRD, Sandbox, alive
from .worker_wire import Wire

STUBBORN = (
    "setsid sleep 1000 & echo $! > setsid.pid; nohup sleep 1000 >/dev/null 2>&1 & echo $! > nohup.pid; "
    "(setsid sh -c 'trap \"\" TERM HUP; env -i sleep 1000 & echo $! > daemon.pid' &) ; sleep 1000"
)
"""A tool call with three children: in another session, ignoring hang-ups, and a daemon that forked twice.

Each writes its PID into the workdir.
"""


def pids(sandbox: Sandbox) -> list[int]:
    """Wait until all processes of `STUBBORN` run, and return their PIDs."""
    files = [Path(sandbox.paths.workdir, f"{name}.pid") for name in ("setsid", "nohup", "daemon")]
    wait_until(lambda: all(file.exists() and file.read_text().strip() for file in files))
    return [int(file.read_text()) for file in files]


def test_signals_of_a_supervisor_that_cannot_fork_are_not_held_for_ever() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with suppress(BlockingIOError), processes.signals_held():
        assert {signal.SIGCHLD, signal.SIGTERM} <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
        raise BlockingIOError
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_the_same_claim_again_starts_no_second_worker_and_replays_its_events(
    sandbox: Sandbox, wire: Wire
) -> None:
    first = sandbox.start()
    first.event("heartbeat")
    again = sandbox.start()
    assert again.event("accepted") == first.event("accepted")
    assert again.event("heartbeat") == first.event("heartbeat")
    wire.say()
    wire.end_turn()
    assert first.record() == again.record()
    later = sandbox.start()
    assert later.record() == first.record()
    assert wire.count("POST", "/heartbeat") == 1


def test_a_newer_claim_kills_the_old_worker_with_all_its_processes_first(
    sandbox: Sandbox, wire: Wire
) -> None:
    old = sandbox.start(FIRST)
    old.event("heartbeat")
    wire.say()
    call = wire.call(STUBBORN)
    started = [old.event("accepted")["pid"], *pids(sandbox)]
    assert all(alive(pid) for pid in started)
    new = sandbox.start(SECOND)
    record = old.record()
    assert not any(alive(pid) for pid in started)
    assert (record["reason"], record["signal"], record["toolCalls"]) == ("Superseded", signal.SIGKILL, 1)
    new.event("heartbeat")
    assert record["finishedAt"] <= new.event("accepted")["at"]
    assert wire.count("POST", "/stop") == 0
    wait_until(lambda: sandbox.log().count(f"executing tool tool=bash tool_use_id={call}") == 2)


def test_an_older_epoch_and_an_older_claim_are_refused_even_after_a_restart(sandbox: Sandbox) -> None:
    sandbox.start(SECOND, epoch=7).event("heartbeat")
    stale = sandbox.start(THIRD, epoch=6).event("refused")
    assert (stale["code"], stale["epoch"], stale["claim"]) == ("StaleEpoch", 7, THIRD)
    assert sandbox.start(FIRST, epoch=7).event("refused")["code"] == "StaleClaim"
    assert sandbox.supervisor is not None
    sandbox.supervisor.send(signal.SIGKILL)
    sandbox.supervisor.wait()
    assert sandbox.start(THIRD, epoch=6).event("refused")["code"] == "StaleEpoch"
    assert sandbox.start(FIRST, epoch=7).event("refused")["code"] == "StaleClaim"


def test_a_watch_after_a_cut_stream_gets_all_events_of_the_claim(sandbox: Sandbox, wire: Wire) -> None:
    cut = sandbox.start()
    cut.event("heartbeat")
    cut.process.kill()
    watch = sandbox.supervisorctl("watch", FIRST)
    assert watch.event("accepted") == cut.event("accepted")
    assert watch.event("heartbeat") == cut.event("heartbeat")
    wire.say()
    wire.end_turn()
    assert watch.record()["reason"] == "Idle"
    assert sandbox.supervisorctl("watch", FIRST).record() == watch.record()
    assert sandbox.supervisorctl("watch", SECOND).event("refused")["code"] == "UnknownClaim"


def test_a_killed_supervisors_worker_dies_too_and_the_next_supervisor_records_it(
    sandbox: Sandbox, wire: Wire
) -> None:
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    wire.call("setsid sleep 1000 & echo $! > setsid.pid; sleep 1000")
    pid_file = Path(sandbox.paths.workdir, "setsid.pid")
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
    assert sandbox.supervisor is not None
    sandbox.supervisor.send(signal.SIGKILL)
    sandbox.supervisor.wait()
    record = client.record()
    assert record["reason"] == "Killed"
    assert record["firstHeartbeatAt"]
    assert not alive(client.event("accepted")["pid"])
    assert not alive(int(pid_file.read_text()))
    assert sandbox.supervisorctl("watch", FIRST).record() == record
    sandbox.start(SECOND).event("heartbeat")


def test_a_watch_of_a_new_leader_protects_the_worker_from_the_old_leaders_stop(sandbox: Sandbox) -> None:
    worker = sandbox.start(FIRST, epoch=6)
    worker.event("heartbeat")
    sandbox.supervisorctl("watch", FIRST, MANAGED_SESSION_EPOCH="7").event("accepted")
    assert sandbox.supervisorctl("stop", FIRST, "6").event("refused")["code"] == "StaleEpoch"
    assert alive(worker.event("accepted")["pid"])


def test_stop_kills_the_worker_and_answers_with_the_record(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    wire.call(STUBBORN)
    started = pids(sandbox)
    assert sandbox.supervisorctl("stop", FIRST, "0").event("refused")["code"] == "StaleEpoch"
    assert sandbox.supervisorctl("stop", FIRST, "1").record()["reason"] == "Killed"
    assert client.record()["reason"] == "Killed"
    assert not any(alive(pid) for pid in started)
    assert sandbox.supervisorctl("stop", SECOND, "1").event("refused")["code"] == "UnknownClaim"


def test_background_processes_of_a_clean_turn_live_on(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    wire.say()
    output, _ = wire.run("nohup sleep 1000 >/dev/null 2>&1 & echo $!")
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    assert alive(int(output))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"epoch": "1"}, "epoch"),
        ({"workSecret": None}, "workSecret"),
        ({"baseURL": "ftp://x"}, "baseURL"),
        ({"maxIdleSeconds": 0}, "maxIdleSeconds"),
        ({"logLevel": "LOUD"}, "logLevel"),
        ({"sessionID": ""}, "sessionID"),
    ],
)
def test_a_bad_request_is_refused_with_the_name_of_the_field(
    sandbox: Sandbox, changes: dict[str, Any], word: str
) -> None:
    refused = sandbox.start(**changes).event("refused")
    assert refused["code"] == "BadRequest"
    assert word in refused["message"]
    assert not list(Path(sandbox.paths.inbox).iterdir())


def test_a_start_without_a_request_in_the_inbox_is_refused(sandbox: Sandbox) -> None:
    assert sandbox.supervisorctl("start", FIRST).event("refused")["code"] == "BadRequest"
    assert sandbox.supervisorctl("start", "../run/state").event("refused")["code"] == "BadRequest"


def test_status_names_the_running_claim(sandbox: Sandbox) -> None:
    assert sandbox.supervisorctl("status").event("status")["running"] is None
    sandbox.start(epoch=3).event("heartbeat")
    status = sandbox.supervisorctl("status").event("status")
    assert (status["epoch"], status["claim"], status["running"]["claim"]) == (3, FIRST, FIRST)


def test_a_second_supervisor_does_not_disturb_the_first(sandbox: Sandbox) -> None:
    assert sandbox.supervisor is not None
    assert sandbox.run_supervisor() == 0
    assert sandbox.supervisorctl("status").event("status")["pid"] == sandbox.supervisor.pid


def test_supervisorctl_starts_a_missing_supervisor(stopped_sandbox: Sandbox) -> None:
    client = stopped_sandbox.start()
    client.event("heartbeat")
    assert stopped_sandbox.supervisorctl("status").event("status")["running"]["claim"] == FIRST


def test_records_are_valid_json_on_disk_before_the_event(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    wire.say()
    wire.end_turn()
    record = client.record()
    assert json.loads(Path(sandbox.paths.exits, f"{FIRST}.json").read_text()) == record


def test_a_frozen_supervisor_is_continued_to_start_or_watch_a_claim(sandbox: Sandbox, wire: Wire) -> None:
    assert sandbox.supervisor is not None
    sandbox.supervisor.send(signal.SIGSTOP)
    client = sandbox.start()
    client.event("heartbeat")
    sandbox.supervisor.send(signal.SIGSTOP)
    wire.say()
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


def test_disk_space_is_reserved_and_reserved_again_after_a_claim_needed_it(
    sandbox: Sandbox, wire: Wire
) -> None:
    reserve = Path(sandbox.paths.reserve)
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    reserve.unlink()
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    wire.end_turn()
    client.record()
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES


def test_a_new_listener_is_served_however_many_old_ones_are_left(sandbox: Sandbox, wire: Wire) -> None:
    """The operator's stream may be cut often, and E2B keeps the process at its other end."""
    client = sandbox.start()
    client.event("heartbeat")
    with ExitStack() as left:
        directory = os.open(sandbox.paths.run, os.O_RDONLY | os.O_DIRECTORY)
        left.callback(os.close, directory)
        for _ in range(MAX_CONNECTIONS + 10):
            peer = left.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            peer.connect(within_directory(directory, SOCKET_NAME))
            peer.sendall(json.dumps({"command": "watch", "claim": FIRST}).encode() + b"\n")
            assert b"accepted" in peer.recv(65536)
        newest = sandbox.supervisorctl("watch", FIRST)
        newest.event("heartbeat")
        assert client.event("refused")["code"] == "Replaced"
        wire.say()
        wire.end_turn()
        assert newest.record()["reason"] == "Idle"
