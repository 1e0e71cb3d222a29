import json
import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from managed_session_worker.paths import SOCKET_NAME, within_directory
from managed_session_worker.server import MAX_CONNECTIONS
from managed_session_worker.workspace import RESERVE_BYTES

from .worker_sandbox import FIRST, SECOND, THIRD, Sandbox, alive, eventually
from .worker_wire import Wire

#: A tool call that leaves, besides its command, a child in another session, one that ignores hang-ups and a
#: daemon that forked twice; each writes its pid into the workdir.
STUBBORN = (
    "setsid sleep 1000 & echo $! > setsid.pid; nohup sleep 1000 >/dev/null 2>&1 & echo $! > nohup.pid; "
    "(setsid sh -c 'trap \"\" TERM HUP; env -i sleep 1000 & echo $! > daemon.pid' &) ; sleep 1000"
)


def pids(sandbox: Sandbox) -> list[int]:
    """The pids of what `STUBBORN` started, once all of it runs."""
    files = [Path(sandbox.paths.workdir, f"{name}.pid") for name in ("setsid", "nohup", "daemon")]
    eventually(lambda: all(file.exists() and file.read_text().strip() for file in files))
    return [int(file.read_text()) for file in files]


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


def test_a_newer_claim_kills_the_old_worker_and_all_it_started_before_the_new_one_starts(
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
    eventually(lambda: sandbox.log().count(f"executing tool tool=bash tool_use_id={call}") == 2)


def test_an_older_epoch_and_an_older_claim_are_refused_also_after_a_restart(sandbox: Sandbox) -> None:
    sandbox.start(SECOND, epoch=7).event("heartbeat")
    stale = sandbox.start(THIRD, epoch=6).event("refused")
    assert (stale["reason"], stale["epoch"], stale["claim"]) == ("StaleEpoch", 7, THIRD)
    assert sandbox.start(FIRST, epoch=7).event("refused")["reason"] == "StaleClaim"
    assert sandbox.supervisor is not None
    sandbox.supervisor.send(signal.SIGKILL)
    sandbox.supervisor.wait()
    assert sandbox.start(THIRD, epoch=6).event("refused")["reason"] == "StaleEpoch"
    assert sandbox.start(FIRST, epoch=7).event("refused")["reason"] == "StaleClaim"


def test_a_watch_after_a_cut_stream_sees_the_whole_claim(sandbox: Sandbox, wire: Wire) -> None:
    cut = sandbox.start()
    cut.event("heartbeat")
    cut.process.kill()
    watch = sandbox.attach("watch", FIRST)
    assert watch.event("accepted") == cut.event("accepted")
    assert watch.event("heartbeat") == cut.event("heartbeat")
    wire.say()
    wire.end_turn()
    assert watch.record()["reason"] == "Idle"
    assert sandbox.attach("watch", FIRST).record() == watch.record()
    assert sandbox.attach("watch", SECOND).event("refused")["reason"] == "UnknownClaim"


def test_a_killed_supervisor_takes_its_worker_along_and_its_successor_says_so(
    sandbox: Sandbox, wire: Wire
) -> None:
    attach = sandbox.start()
    attach.event("heartbeat")
    wire.say()
    wire.call("setsid sleep 1000 & echo $! > setsid.pid; sleep 1000")
    pid_file = Path(sandbox.paths.workdir, "setsid.pid")
    eventually(lambda: pid_file.exists() and pid_file.read_text().strip())
    assert sandbox.supervisor is not None
    sandbox.supervisor.send(signal.SIGKILL)
    sandbox.supervisor.wait()
    record = attach.record()
    assert record["reason"] == "Killed"
    assert record["firstHeartbeatAt"]
    assert not alive(attach.event("accepted")["pid"])
    assert not alive(int(pid_file.read_text()))
    assert sandbox.attach("watch", FIRST).record() == record
    sandbox.start(SECOND).event("heartbeat")


def test_who_watches_for_a_new_leader_protects_the_worker_from_the_old_ones_stop(sandbox: Sandbox) -> None:
    worker = sandbox.start(FIRST, epoch=6)
    worker.event("heartbeat")
    sandbox.attach("watch", FIRST, MANAGED_SESSION_EPOCH="7").event("accepted")
    assert sandbox.attach("stop", FIRST, "6").event("refused")["reason"] == "StaleEpoch"
    assert alive(worker.event("accepted")["pid"])


def test_stop_kills_hard_and_answers_with_the_record(sandbox: Sandbox, wire: Wire) -> None:
    attach = sandbox.start()
    attach.event("heartbeat")
    wire.say()
    wire.call(STUBBORN)
    started = pids(sandbox)
    assert sandbox.attach("stop", FIRST, "0").event("refused")["reason"] == "StaleEpoch"
    assert sandbox.attach("stop", FIRST, "1").record()["reason"] == "Killed"
    assert attach.record()["reason"] == "Killed"
    assert not any(alive(pid) for pid in started)
    assert sandbox.attach("stop", SECOND, "1").event("refused")["reason"] == "UnknownClaim"


def test_what_an_orderly_turn_left_in_the_background_lives_on(sandbox: Sandbox, wire: Wire) -> None:
    attach = sandbox.start()
    wire.say()
    output, _ = wire.run("nohup sleep 1000 >/dev/null 2>&1 & echo $!")
    wire.end_turn()
    assert attach.record()["reason"] == "Idle"
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
    assert refused["reason"] == "BadRequest"
    assert word in refused["message"]
    assert not list(Path(sandbox.paths.inbox).iterdir())


def test_a_start_without_a_request_in_the_inbox_is_refused(sandbox: Sandbox) -> None:
    assert sandbox.attach("start", FIRST).event("refused")["reason"] == "BadRequest"
    assert sandbox.attach("start", "../run/state").event("refused")["reason"] == "BadRequest"


def test_status_names_the_running_claim(sandbox: Sandbox) -> None:
    assert sandbox.attach("status").event("status")["running"] is None
    sandbox.start(epoch=3).event("heartbeat")
    status = sandbox.attach("status").event("status")
    assert (status["epoch"], status["claim"], status["running"]["claim"]) == (3, FIRST, FIRST)


def test_a_second_supervisor_leaves_the_first_alone(sandbox: Sandbox) -> None:
    assert sandbox.supervisor is not None
    assert sandbox.run_supervisor() == 0
    assert sandbox.attach("status").event("status")["pid"] == sandbox.supervisor.pid


def test_attach_starts_a_supervisor_where_there_is_none(stopped_sandbox: Sandbox) -> None:
    attach = stopped_sandbox.start()
    attach.event("heartbeat")
    assert stopped_sandbox.attach("status").event("status")["running"]["claim"] == FIRST


def test_records_are_valid_json_on_disk_before_the_event(sandbox: Sandbox, wire: Wire) -> None:
    attach = sandbox.start()
    wire.say()
    wire.end_turn()
    record = attach.record()
    assert json.loads(Path(sandbox.paths.exits, f"{FIRST}.json").read_text()) == record


def test_a_supervisor_that_was_stopped_goes_on_for_whoever_starts_or_watches_a_claim(
    sandbox: Sandbox, wire: Wire
) -> None:
    assert sandbox.supervisor is not None
    sandbox.supervisor.send(signal.SIGSTOP)
    attach = sandbox.start()
    attach.event("heartbeat")
    sandbox.supervisor.send(signal.SIGSTOP)
    wire.say()
    wire.end_turn()
    assert attach.record()["reason"] == "Idle"


def test_room_is_held_back_on_the_disk_and_again_after_a_claim_that_needed_it(
    sandbox: Sandbox, wire: Wire
) -> None:
    reserve = Path(sandbox.paths.reserve)
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    reserve.unlink()
    attach = sandbox.start()
    attach.event("heartbeat")
    wire.say()
    wire.end_turn()
    attach.record()
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES


def test_who_listens_anew_is_heard_however_many_were_left_behind(sandbox: Sandbox, wire: Wire) -> None:
    """The operator's stream may be cut again and again; E2B lets what was at its other end run on."""
    attach = sandbox.start()
    attach.event("heartbeat")
    with ExitStack() as left:
        directory = os.open(sandbox.paths.run, os.O_RDONLY | os.O_DIRECTORY)
        left.callback(os.close, directory)
        for _ in range(MAX_CONNECTIONS + 10):
            peer = left.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            peer.connect(within_directory(directory, SOCKET_NAME))
            peer.sendall(json.dumps({"command": "watch", "claim": FIRST}).encode() + b"\n")
            assert b"accepted" in peer.recv(65536)
        newest = sandbox.attach("watch", FIRST)
        newest.event("heartbeat")
        assert attach.event("refused")["reason"] == "Replaced"
        wire.say()
        wire.end_turn()
        assert newest.record()["reason"] == "Idle"
