"""Results that Anthropic refuses, temporarily or for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from ...support.waiting import wait_until
from .worker_sandbox import Sandbox
from .worker_wire import Wire


def posts(wire: Wire) -> int:
    return wire.count("POST", "/events")


def runs(sandbox: Sandbox) -> int:
    """Return how often the call of `counted` has run."""
    file = Path(sandbox.paths.workdir, "runs")
    return len(file.read_text().splitlines()) if file.exists() else 0


COUNTED = "echo run >> runs; echo done"


def test_a_temporarily_refused_result_is_posted_again_and_the_call_runs_once(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.refuse_results_with, wire.refusals = 400, 3
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    assert wire.run(COUNTED) == ("done", False)
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["resultsPosted"], record["resultsRefused"]) == ("Idle", 1, 0)
    assert (runs(sandbox), posts(wire)) == (1, 4)


def test_the_result_of_a_sub_threads_call_is_posted_until_it_is_accepted(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.refuse_results_with, wire.refusals = 400, 3
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    call = wire.call_of_thread(COUNTED)
    wire.wait_for(lambda: wire.result(call) is not None)
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    assert runs(sandbox) == 1


@pytest.mark.parametrize(
    "over",
    [
        lambda wire: wire.emit("user.interrupt"),
        lambda wire: wire.emit("user.interrupt", session_thread_id="sthr_1"),
        lambda wire: wire.emit(
            "session.thread_status_terminated", agent_name="helper", session_thread_id="sthr_1"
        ),
    ],
    ids=["interrupted", "its thread is interrupted", "its thread is over"],
)
def test_a_result_that_nobody_waits_for_any_more_is_not_posted_again(
    sandbox: Sandbox, wire: Wire, over: object
) -> None:
    assert callable(over)
    wire.refuse_results_with = 400
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    wire.call_of_thread(COUNTED)
    wire.wait_for(lambda: posts(wire) >= 2)
    over(wire)
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["resultsRefused"], record["toolCallsInterrupted"]) == ("Idle", 0, 1)
    assert runs(sandbox) == 1


def test_a_result_refused_for_good_ends_the_worker_after_some_attempts(sandbox: Sandbox, wire: Wire) -> None:
    wire.refuse_results_with = 400
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    wire.call_of_thread(COUNTED)
    record = client.record()
    assert (record["reason"], record["resultsRefused"]) == ("ResultRefused", 1)
    assert posts(wire) > 3
    assert runs(sandbox) == 1
    assert wire.count("POST", "/stop") == 0


def test_a_call_whose_result_was_refused_for_good_has_the_same_result_after_a_reconnect(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.refuse_results_with, wire.refusals = 413, 1
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    # The session does not say that it waits for the result, so the worker stays.
    call = wire.call_of_thread("echo run >> runs; echo $RANDOM | tee first; exit 3", waits=False)
    wait_until(lambda: "failed to send tool result" in sandbox.log())
    wire.sever_streams()
    wire.wait_for(lambda: wire.result(call) is not None)
    result = wire.result(call)
    assert result is not None
    first = Path(sandbox.paths.workdir, "first").read_text().strip()
    assert (runs(sandbox), result["is_error"]) == (1, True)
    assert first in result["content"][0]["text"]
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


def test_a_call_that_runs_during_a_reconnect_runs_once_even_if_its_result_is_refused(
    sandbox: Sandbox, wire: Wire
) -> None:
    """The reconnect queues the call in the SDK a second time, before its result is refused."""
    wire.refuse_results_with, wire.refusals = 413, 1
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    call = wire.call_of_thread(f"{COUNTED}; until test -e go; do sleep 0.05; done", waits=False)
    wait_until(lambda: runs(sandbox) == 1)
    histories = wire.count("GET", "/events")
    wire.sever_streams()
    wire.wait_for(lambda: wire.count("GET", "/events") > histories)
    Path(sandbox.paths.workdir, "go").touch()
    wire.wait_for(lambda: wire.result(call) is not None)
    assert runs(sandbox) == 1
    wire.end_turn()
    assert client.record()["reason"] == "Idle"


def test_a_call_that_was_interrupted_earlier_is_not_run_by_the_next_worker(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.say()
    interrupted = wire.call(COUNTED)
    wire.emit("user.interrupt")
    wire.end_turn()
    wire.say()
    client = sandbox.start()
    client.event("heartbeat")
    assert wire.run("echo next") == ("next", False)
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["toolCalls"], record["resultsRefused"]) == ("Idle", 1, 0)
    assert (runs(sandbox), posts(wire), wire.result(interrupted)) == (0, 1, None)


def test_the_worker_leaves_an_idle_session_whose_last_call_was_interrupted(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.say()
    wire.call(COUNTED)
    wire.emit("user.interrupt")
    wire.end_turn()
    client = sandbox.start()
    assert client.record()["reason"] == "Idle"
    assert (runs(sandbox), posts(wire)) == (0, 0)


def test_a_call_interrupted_while_another_one_runs_is_not_run_afterwards(
    sandbox: Sandbox, wire: Wire
) -> None:
    client = sandbox.start()
    client.event("heartbeat")
    wire.say()
    wire.call("until test -e go; do sleep .05; done")
    second = wire.call(COUNTED)
    wire.refuse_results_with, wire.refusals = 400, 2
    wire.emit("user.interrupt")
    # The worker's report of a later event shows that it has read the interrupt.
    asked = wire.emit("agent.custom_tool_use", name="ask_user", input={})
    wire.emit("session.status_idle", stop_reason={"type": "requires_action", "event_ids": [asked]})
    client.event("awaiting")
    wire.emit("user.custom_tool_result", custom_tool_use_id=asked, content=[])
    wire.end_turn()
    Path(sandbox.paths.workdir, "go").touch()
    assert client.record()["reason"] == "Idle"
    assert (runs(sandbox), wire.result(second)) == (0, None)
