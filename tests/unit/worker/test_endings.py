import os
import signal
from pathlib import Path

import pytest

from ...support.waiting import wait_until
from .worker_sandbox import FIRST, SECOND, Sandbox, alive
from .worker_wire import Wire


def test_a_session_without_a_message_is_stopped_after_the_attach_timeout(
    sandbox: Sandbox, wire: Wire
) -> None:
    record = sandbox.start(attachTimeoutSeconds=0.5).record()
    assert record["reason"] == "NoMessage"
    assert wire.count("POST", "/stop") == 1


def test_a_session_with_a_message_outlives_the_attach_timeout(sandbox: Sandbox, wire: Wire) -> None:
    wire.say()
    client = sandbox.start(attachTimeoutSeconds=0.2)
    client.event("heartbeat")
    wire.wait_for(lambda: wire.count("GET", "/events") >= 2)
    assert wire.run("echo still here") == ("still here", False)
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


def test_a_lease_held_by_another_worker_is_lost(sandbox: Sandbox, wire: Wire) -> None:
    wire.heartbeat_status = 412
    record = sandbox.start().record()
    assert (record["reason"], record["firstHeartbeatAt"]) == ("LeaseLost", None)
    assert wire.count("POST", "/stop") == 0


def test_a_lease_lost_in_the_middle_of_a_tool_call_ends_the_tool_and_posts_nothing(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.lease_seconds = 6
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    call = wire.call("echo $$ > shell.pid; sleep 1000")
    pid_file = Path(sandbox.paths.workdir, "shell.pid")
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
    wire.heartbeat_status = 412
    assert client.record()["reason"] == "LeaseLost"
    assert not alive(int(pid_file.read_text()))
    assert wire.result(call) is None
    assert wire.count("POST", "/stop") == 0


def test_a_refused_credential_is_the_exit_reason(sandbox: Sandbox, wire: Wire) -> None:
    wire.unauthorized = True
    assert sandbox.start().record()["reason"] == "CredentialRejected"


def test_a_refused_heartbeat_credential_is_the_exit_reason(sandbox: Sandbox, wire: Wire) -> None:
    wire.heartbeat_status = 401
    assert sandbox.start().record()["reason"] == "CredentialRejected"
    assert wire.count("POST", "/stop") == 0, "another worker can be started for the item"


def test_a_credential_refused_in_the_middle_of_a_tool_call_leaves_the_work_to_the_next_worker(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.lease_seconds = 6
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    call = wire.call("touch running; sleep 1000")
    wait_until(Path(sandbox.paths.workdir, "running").exists)
    wire.heartbeat_status = 401
    assert client.record()["reason"] == "CredentialRejected"
    assert wire.result(call) is None
    assert wire.count("POST", "/stop") == 0


def test_a_work_item_that_is_being_stopped_ends_the_worker(sandbox: Sandbox, wire: Wire) -> None:
    wire.heartbeat_state = "stopping"
    assert sandbox.start().record()["reason"] == "Stopped"


def test_a_terminated_session_ends_the_worker(sandbox: Sandbox, wire: Wire) -> None:
    wire.session_status = "terminated"
    assert sandbox.start().record()["reason"] == "SessionEnded"


def test_a_session_terminated_while_it_is_served_ends_the_worker(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    wire.say()
    wire.run("true")
    wire.emit("session.status_terminated")
    assert client.record()["reason"] == "SessionEnded"


def test_a_refused_result_that_the_session_waits_for_ends_the_worker_without_a_stop(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.refuse_results_with = 413
    client = sandbox.start()
    wire.say()
    wire.call("echo too much")
    record = client.record()
    assert (record["reason"], record["resultsRefused"], record["resultsPosted"]) == ("ResultRefused", 1, 0)
    assert "413" in record["message"]
    assert wire.count("POST", "/stop") == 0


def test_a_refused_result_that_nobody_waits_for_does_not_end_the_worker(sandbox: Sandbox, wire: Wire) -> None:
    wire.refuse_results_with = 400
    client = sandbox.start()
    wire.say()
    call = wire.call("echo late")
    wire.wait_for(lambda: wire.count("POST", "/events") >= 1)
    wire.emit("user.interrupt")
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["resultsRefused"], record["toolCallsInterrupted"]) == ("Idle", 0, 1)
    assert wire.result(call) is None
    assert wire.count("POST", "/stop") == 1


def test_a_worker_frozen_past_its_lease_does_nothing_when_it_thaws(sandbox: Sandbox, wire: Wire) -> None:
    wire.lease_seconds = 3
    client = sandbox.start()
    client.event("heartbeat")
    worker = client.event("accepted")["pid"]
    wire.wait_for(lambda: wire.count("GET", "/events") >= 1)
    os.kill(worker, signal.SIGSTOP)
    frozen_until = os.times().elapsed + wire.lease_seconds + 1
    wire.say()
    call = wire.call("echo from the past > thawed")
    wait_until(lambda: os.times().elapsed > frozen_until)
    # What it had sent before it was frozen has arrived by now.
    before = len(wire.calls)
    os.kill(worker, signal.SIGCONT)
    assert client.record()["reason"] == "Thawed"
    assert len(wire.calls) == before
    assert wire.result(call) is None
    assert not Path(sandbox.paths.workdir, "thawed").exists()


def test_a_worker_frozen_for_less_than_its_lease_continues(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    client.event("heartbeat")
    worker = client.event("accepted")["pid"]
    os.kill(worker, signal.SIGSTOP)
    frozen_until = os.times().elapsed + 3
    wait_until(lambda: os.times().elapsed > frozen_until)
    os.kill(worker, signal.SIGCONT)
    wire.say()
    assert wire.run("echo awake") == ("awake", False)
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


def test_a_worker_killed_from_outside_leaves_a_record(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    wire.run("sleep 1000 >/dev/null 2>&1 & echo $! > left.pid")
    os.kill(client.event("accepted")["pid"], signal.SIGKILL)
    record = client.record()
    assert (record["reason"], record["signal"], record["toolCalls"]) == ("Killed", signal.SIGKILL, 1)
    assert alive(int(Path(sandbox.paths.workdir, "left.pid").read_text())), "its call has had its result"


def test_sigterm_to_the_supervisor_kills_the_worker_hard(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    client.event("heartbeat")
    assert sandbox.supervisor is not None
    sandbox.supervisor.send(signal.SIGTERM)
    assert client.record()["reason"] == "Killed"
    sandbox.supervisor.wait()
    assert wire.count("POST", "/stop") == 0


def test_memory_stores_of_a_killed_worker_are_moved_aside_and_reported(sandbox: Sandbox, wire: Wire) -> None:
    sandbox.start(FIRST).event("heartbeat")
    wire.say()
    store = Path(sandbox.paths.memory, "notes")
    wire.run(
        f"mkdir -p {store}/deep; echo x > {store}/.anthropic-memory-store; echo y > {store}/deep/note.md"
    )
    client = sandbox.start(SECOND)
    client.event("heartbeat")
    assert not store.exists()
    wire.end_turn()
    [file] = client.record()["unsynchronised"]
    assert file.endswith("/notes/deep/note.md")
    assert Path(file).read_text() == "y\n"


@pytest.mark.parametrize("secret", ["bm90IGpzb24", "!!!"])
def test_a_secret_without_a_token_is_an_error_that_does_not_quote_it(sandbox: Sandbox, secret: str) -> None:
    record = sandbox.start(workSecret=secret).record()
    assert record["reason"] == "Error"
    assert secret not in record["message"]
    assert "sessions token" in record["message"]
