"""Connections that die silently: a worker must notice by itself that it gets nothing any more."""

import os
import signal
import time
from pathlib import Path

from managed_session_worker.connections import STREAM_SECONDS, StreamTimeout

from ...support.waiting import wait_until
from .worker_sandbox import FIRST, Sandbox
from .worker_wire import Wire

SECONDS_AFTER_A_LOSS = 45
SECONDS_AFTER_A_THAW = 20
"""Well before a stream without pings is given up (STREAM_SECONDS), also on a busy machine."""


def answered_within(wire: Wire, seconds: float, since: float) -> None:
    """Assert that the agent's tool call gets its result in time."""
    call = wire.call("echo heard")
    wait_until(lambda: wire.result(call) is not None, "the call was not heard", seconds=60)
    took = time.monotonic() - since
    print(f"answered {took:.1f} s after the cut")
    assert took < seconds


def test_a_worker_recovers_from_silently_lost_connections(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(maxIdleSeconds=60)
    wire.say()
    wire.run("true")
    assert wire.cut_silently() > 0
    answered_within(wire, SECONDS_AFTER_A_LOSS, time.monotonic())
    wire.emit("session.status_terminated")
    assert client.record()["resultsPosted"] == 2


def test_a_worker_recovers_from_a_silent_stream_on_an_open_connection(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(maxIdleSeconds=60)
    wire.say()
    wire.run("true")
    wire.forget_streams()
    answered_within(wire, SECONDS_AFTER_A_LOSS, time.monotonic())
    assert wire.count("GET", "/events/stream") == 2
    wire.emit("session.status_terminated")
    assert client.record()["toolCalls"] == 2


def test_a_worker_reconnects_at_once_after_it_thaws(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(maxIdleSeconds=60)
    wire.say()
    call = wire.call("touch running; sleep 4; echo survived")
    wait_until(Path(sandbox.paths.workdir, "running").exists)
    worker = client.event("accepted")["pid"]
    os.kill(worker, signal.SIGSTOP)
    wire.cut_silently()
    frozen_until = time.monotonic() + 3
    wait_until(lambda: time.monotonic() > frozen_until)
    os.kill(worker, signal.SIGCONT)
    thawed = time.monotonic()
    answered_within(wire, SECONDS_AFTER_A_THAW, thawed)
    assert wire.result(call) is not None, "the call that ran went on"
    wire.emit("session.status_terminated")
    assert client.record()["toolCalls"] == 2


def test_a_worker_reconnects_at_once_when_the_operator_reports_a_resume(sandbox: Sandbox, wire: Wire) -> None:
    first = sandbox.start(maxIdleSeconds=60)
    first.event("heartbeat")
    wire.say()
    wire.run("true")
    wire.cut_silently()
    sandbox.supervisorctl("watch", FIRST, MANAGED_SESSION_RESUMED="yes").event("heartbeat")
    answered_within(wire, SECONDS_AFTER_A_THAW, time.monotonic())
    wire.emit("session.status_terminated")
    assert first.record()["resultsPosted"] == 2


def test_the_end_of_the_operators_stream_does_not_disturb_the_worker(sandbox: Sandbox, wire: Wire) -> None:
    first = sandbox.start(maxIdleSeconds=60)
    first.event("heartbeat")
    wire.say()
    wire.run("true")
    second = sandbox.supervisorctl("watch", FIRST)
    second.event("heartbeat")
    assert wire.run("echo same") == ("same", False)
    assert wire.count("GET", "/events/stream") == 1
    wire.emit("session.status_terminated")
    assert second.record()["resultsPosted"] == 2


def test_the_operators_stream_has_pings(sandbox: Sandbox) -> None:
    client = sandbox.start(maxIdleSeconds=60)
    client.event("heartbeat")
    wait_until(lambda: [event["event"] for event in client.events].count("ping") >= 2)


def test_a_stream_without_pings_is_reopened_less_and_less_often() -> None:
    stream_timeout = StreamTimeout()
    waited = []
    for _ in range(5):
        waited.append(stream_timeout.seconds)
        stream_timeout.silent(stream_timeout.seconds)
    assert waited == [30, 60, 120, 240, 240]


def test_a_stream_whose_pings_stop_gets_the_shortest_timeout_again() -> None:
    stream_timeout = StreamTimeout()
    stream_timeout.silent(stream_timeout.seconds)
    stream_timeout.silent(500)
    assert stream_timeout.seconds == STREAM_SECONDS
