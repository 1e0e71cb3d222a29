"""Messages that arrive after the worker has decided to leave, and before its stop takes effect."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ...support.waiting import wait_until
from .worker_sandbox import FIRST, SECOND, Sandbox, Supervisorctl
from .worker_wire import Wire

WAIT = "until test -e go; do sleep 0.05; done"
"""Part of a call that lasts until the test lets it go on."""


def let_go(sandbox: Sandbox) -> None:
    """Let the call that waits go on."""
    Path(sandbox.paths.workdir, "go").touch()


def message(wire: Wire, command: str = "echo late") -> Callable[[], object]:
    """Return an action before a stop: the user sends a message and the agent requests a call, once."""

    def come() -> None:
        wire.before_stop = lambda: None
        wire.say()
        calls.append(wire.call(command))

    calls: list[str] = wire.late_calls
    return come


def turn_with_late_message(sandbox: Sandbox, wire: Wire, command: str = "echo late") -> Supervisorctl:
    """Play a turn, and send a message while its worker stops."""
    wire.after_stop = wire.after_stop or "stopped"
    wire.before_stop = message(wire, command)
    client = sandbox.start()
    wire.say()
    wire.run("echo first")
    wire.end_turn()
    return client


def late_result(wire: Wire) -> str | None:
    """Wait for the late call's result, and return its text."""
    result = wire.result(wire.late_calls[0]) if wire.late_calls else None
    return result["content"][0]["text"] if result else None


def test_a_message_that_comes_while_the_worker_stops_is_served_by_it(sandbox: Sandbox, wire: Wire) -> None:
    client = turn_with_late_message(sandbox, wire)
    assert client.event("late")["claim"] == FIRST
    wire.wait_for(lambda: late_result(wire) == "late")
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["resultsPosted"]) == ("Idle", 2)
    assert record["lateSince"]
    assert wire.count("POST", "/stop") == 1, "the item was stopped already"


def test_a_first_message_that_comes_while_the_unused_item_is_stopped_is_served(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.after_stop = "stopped"
    wire.before_stop = message(wire)
    client = sandbox.start(attachTimeoutSeconds=0.3)
    wire.wait_for(lambda: late_result(wire) == "late")
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


def test_a_message_whose_item_was_stopped_before_its_worker_came_is_served(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.after_stop, wire.stopped = "stopped", True
    wire.say()
    wire.late_calls.append(wire.call("echo late"))
    client = sandbox.start()
    client.event("heartbeat")
    client.event("late")
    wire.wait_for(lambda: late_result(wire) == "late")
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["resultsPosted"]) == ("Idle", 1)


def test_a_stopped_item_of_a_session_that_waits_for_nobody_ends_the_worker(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.after_stop, wire.stopped = "stopped", True
    wire.say()
    wire.end_turn()
    record = sandbox.start().record()
    assert (record["reason"], record["lateSince"]) == ("Stopped", None)


def test_an_item_that_is_stopped_under_its_worker_ends_it(sandbox: Sandbox, wire: Wire) -> None:
    wire.lease_seconds = 6
    client = sandbox.start()
    wire.say()
    wire.call(f"touch begun; {WAIT}")
    wait_until(Path(sandbox.paths.workdir, "begun").exists)
    wire.after_stop, wire.stopped = "stopped", True
    beats = wire.count("POST", "/heartbeat")
    wire.wait_for(lambda: wire.count("POST", "/heartbeat") > beats)
    let_go(sandbox)
    record = client.record()
    assert (record["reason"], record["lateSince"]) == ("Stopped", None)


def test_a_worker_leaves_a_session_that_stays_idle_after_reading_its_events_once(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.after_stop = "stopped"
    client = sandbox.start()
    wire.say()
    wire.run("true")
    beats = wire.count("POST", "/heartbeat")
    histories = wire.count("GET", "/events")
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["lateSince"]) == ("Idle", None)
    assert wire.count("GET", "/events") == histories + 1
    assert wire.count("POST", "/heartbeat") == beats


@pytest.mark.parametrize("state", ["queued", "starting", "active"])
def test_a_message_for_which_work_is_queued_is_left_to_the_next_worker(
    sandbox: Sandbox, wire: Wire, state: str
) -> None:
    wire.after_stop = state
    record = turn_with_late_message(sandbox, wire, "touch executed").record()
    assert (record["reason"], record["lateSince"]) == ("Idle", None)
    assert late_result(wire) is None
    assert not Path(sandbox.paths.workdir, "executed").exists()


def test_a_call_whose_result_would_be_refused_is_not_run(sandbox: Sandbox, wire: Wire) -> None:
    wire.unauthorized_after_stop = True
    record = turn_with_late_message(sandbox, wire, "touch executed").record()
    assert (record["reason"], record["lateSince"]) == ("Idle", None)
    assert not Path(sandbox.paths.workdir, "executed").exists()


def test_a_late_result_that_is_refused_ends_the_worker(sandbox: Sandbox, wire: Wire) -> None:
    client = turn_with_late_message(sandbox, wire, f"touch begun; {WAIT}")
    wait_until(Path(sandbox.paths.workdir, "begun").exists)
    wire.refuse_results_with = 403
    let_go(sandbox)
    assert client.record()["reason"] == "ResultRefused"


def test_work_that_is_queued_again_takes_over_after_the_running_call(sandbox: Sandbox, wire: Wire) -> None:
    client = turn_with_late_message(sandbox, wire, f"touch begun; {WAIT}; echo finished")
    wait_until(Path(sandbox.paths.workdir, "begun").exists)
    wire.after_stop = "queued"
    next_call = wire.call("touch next")
    wait_until(lambda: "work is queued again" in sandbox.log(), "the worker finds its work queued")
    let_go(sandbox)
    record = client.record()
    assert (record["reason"], record["resultsRefused"]) == ("Idle", 0)
    assert late_result(wire) == "finished"
    assert wire.result(next_call) is None
    assert not Path(sandbox.paths.workdir, "next").exists()


def test_a_newer_claim_does_not_kill_a_worker_that_serves_late(sandbox: Sandbox, wire: Wire) -> None:
    client = turn_with_late_message(sandbox, wire, f"touch begun; {WAIT}; echo finished")
    wait_until(Path(sandbox.paths.workdir, "begun").exists)
    refused = sandbox.start(SECOND).event("refused")
    assert refused["code"] == "Busy"
    let_go(sandbox)
    wire.wait_for(lambda: late_result(wire) == "finished")
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    wire.after_stop = None
    sandbox.start(SECOND).event("heartbeat")


def test_a_new_listener_learns_that_the_worker_serves_late(sandbox: Sandbox, wire: Wire) -> None:
    turn_with_late_message(sandbox, wire, "touch begun; sleep 1; echo finished")
    wait_until(Path(sandbox.paths.workdir, "begun").exists)
    assert sandbox.supervisorctl("watch", FIRST).event("late")["at"]


def test_a_session_that_ends_while_it_is_served_late_ends_the_worker(sandbox: Sandbox, wire: Wire) -> None:
    client = turn_with_late_message(sandbox, wire)
    wire.wait_for(lambda: late_result(wire) == "late")
    wire.emit("session.status_terminated")
    assert client.record()["reason"] == "SessionEnded"


def test_an_interrupt_ends_late_serving(sandbox: Sandbox, wire: Wire) -> None:
    client = turn_with_late_message(sandbox, wire, "touch begun; sleep 1")
    wait_until(Path(sandbox.paths.workdir, "begun").exists)
    wire.emit("user.interrupt")
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


def test_the_operator_can_stop_a_worker_that_serves_late(sandbox: Sandbox, wire: Wire) -> None:
    client = turn_with_late_message(sandbox, wire, "touch begun; sleep 1000")
    wait_until(Path(sandbox.paths.workdir, "begun").exists)
    sandbox.supervisorctl("stop", FIRST, "1").record()
    assert client.record()["reason"] == "Killed"


def test_a_message_is_served_although_the_stop_takes_longer_than_a_worker_may_idle(
    sandbox: Sandbox, wire: Wire
) -> None:
    come = message(wire, "sleep 2; echo late")

    def slow_stop() -> None:
        threading.Event().wait(2)
        come()

    wire.after_stop, wire.before_stop = "stopped", slow_stop
    client = sandbox.start(maxIdleSeconds=0.3)
    wire.say()
    wire.run("echo first")
    wire.end_turn()
    wire.wait_for(lambda: late_result(wire) == "late")
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["resultsPosted"]) == ("Idle", 2)
    assert wire.count("POST", "/stop") == 1, "the item was stopped already"
