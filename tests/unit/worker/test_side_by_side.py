"""Tool calls of different threads run at the same time; what nobody waits for ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from anthropic.lib.environments import EnvironmentWorker
from managed_session_worker.side_by_side import ThreadCalls, side_by_side

from ...support.waiting import wait_until
from .worker_sandbox import FIRST, SECOND, SECRET, THIRD, WORKER, Sandbox, alive
from .worker_wire import Wire


def until(name: str) -> str:
    return f"until test -e {name}; do sleep .05; done"


def file(sandbox: Sandbox, name: str) -> Path:
    return Path(sandbox.paths.workdir, name)


def posts(wire: Wire) -> int:
    return wire.count("POST", "/events")


def test_calls_of_two_threads_that_wait_for_each_other_end(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    wire.say()
    first = wire.call_of_thread(f"touch a; {until('b')}; echo one", name="sthr_1")
    second = wire.call_of_thread(f"touch b; {until('a')}; echo two", name="sthr_2")
    assert (wire.answer(first), wire.answer(second)) == ("one", "two")
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["toolCalls"], record["resultsPosted"]) == ("Idle", 2, 2)


def test_the_calls_of_one_thread_run_in_order_and_hold_up_no_other_thread(
    sandbox: Sandbox, wire: Wire
) -> None:
    sandbox.start()
    wire.say()
    first = wire.call_of_thread(f"touch begun; x=1; {until('go')}; echo $x", waits=False)
    second = wire.call_of_thread("touch later; echo $x")
    assert wire.run("test -z $x && echo own shell") == ("own shell", False)
    wait_until(file(sandbox, "begun").exists)
    assert not file(sandbox, "later").exists()
    file(sandbox, "go").touch()
    assert (wire.answer(second), wire.answer(first)) == ("1", "1")
    results = [event["tool_use_id"] for event in wire.events if event["type"] == "user.tool_result"]
    assert results[1:] == [first, second]


def test_not_more_calls_run_at_the_same_time_than_allowed(sandbox: Sandbox, wire: Wire) -> None:
    sandbox.start(maxParallelCalls=1)
    wire.say()
    first = wire.call_of_thread(f"touch begun; {until('go')}", name="sthr_1")
    second = wire.call_of_thread("touch later", name="sthr_2")
    wait_until(file(sandbox, "begun").exists)
    asked = wire.emit("agent.tool_use", name="theirs", input={}, evaluated_permission="allow")
    wire.emit("user.tool_result", tool_use_id=asked, content=[], is_error=False)
    file(sandbox, "go").touch()
    wire.answer(second)
    order = [event["tool_use_id"] for event in wire.events if event["type"] == "user.tool_result"]
    assert order == [asked, first, second]


def test_calls_run_once_however_often_the_stream_is_cut_meanwhile(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    wire.say()
    calls = [
        wire.call_of_thread(f"echo x >> runs; {until('go')}", name=thread, waits=False)
        for thread in ("sthr_1", "sthr_1", "sthr_2")
    ]
    wait_until(lambda: file(sandbox, "runs").exists() and file(sandbox, "runs").read_text() == "x\n" * 2)
    for _ in range(2):
        histories = wire.count("GET", "/events")
        wire.sever_streams()
        wire.wait_for(lambda before=histories: wire.count("GET", "/events") > before)  # type: ignore[misc]
    file(sandbox, "go").touch()
    for call in calls:
        wire.answer(call)
    wire.end_turn()
    assert client.record()["resultsPosted"] == 3
    assert (file(sandbox, "runs").read_text(), posts(wire)) == ("x\n" * 3, 3)


def sleeper(sandbox: Sandbox) -> int:
    """Wait for a command that writes its PID, and return it."""
    wait_until(lambda: file(sandbox, "pid").exists() and file(sandbox, "pid").read_text().strip() != "")
    return int(file(sandbox, "pid").read_text())


SLEEP = "sleep 1000 & echo $! > pid; wait"


def test_an_interrupt_ends_the_running_call_and_the_next_message_is_served_at_once(
    sandbox: Sandbox, wire: Wire
) -> None:
    client = sandbox.start()
    wire.say()
    call, waiting = wire.call(SLEEP), wire.call("touch never")
    pid = sleeper(sandbox)
    wire.emit("user.interrupt")
    wire.end_turn()
    wait_until(lambda: not alive(pid), "the interrupted command goes on")
    wire.say()
    assert "next" in wire.run("echo next")[0]
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["toolCallsInterrupted"], record["resultsRefused"]) == ("Idle", 1, 0)
    assert (wire.result(call), wire.result(waiting), posts(wire)) == (None, None, 1)
    assert not file(sandbox, "never").exists()


@pytest.mark.parametrize("kind", ["user.interrupt", "session.thread_status_terminated"])
def test_what_ends_one_thread_ends_no_call_of_another(sandbox: Sandbox, wire: Wire, kind: str) -> None:
    client = sandbox.start()
    wire.say()
    ended = wire.call_of_thread(SLEEP, name="sthr_1")
    other = wire.call_of_thread(f"{until('go')}; echo done", name="sthr_2")
    pid = sleeper(sandbox)
    wire.emit(kind, session_thread_id="sthr_1", agent_name="helper")
    wait_until(lambda: not alive(pid))
    file(sandbox, "go").touch()
    assert wire.answer(other) == "done"
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["toolCallsInterrupted"], wire.result(ended)) == ("Idle", 1, None)


def test_a_session_that_ends_does_not_wait_for_its_calls(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start()
    wire.say()
    wire.call(SLEEP)
    pid = sleeper(sandbox)
    wire.emit("session.status_terminated")
    assert client.record()["reason"] == "SessionEnded"
    assert not alive(pid)
    assert posts(wire) == 0


def test_an_interrupted_call_for_which_the_session_still_waits_is_answered(
    sandbox: Sandbox, wire: Wire
) -> None:
    sandbox.start()
    wire.say()
    call = wire.call(f"echo x >> runs; {SLEEP}")
    sleeper(sandbox)
    wire.emit("user.interrupt")
    wire.emit("session.status_idle", stop_reason={"type": "requires_action", "event_ids": [call]})
    assert wire.answer(call) == "the user interrupted this call while it ran"
    assert file(sandbox, "runs").read_text() == "x\n"


def test_a_worker_that_dies_counts_all_its_calls_and_the_last_attempt_is_made_alone(
    sandbox: Sandbox, wire: Wire
) -> None:
    wire.say()
    innocent = wire.call_of_thread(f"echo x >> runs; {until('go')}; echo done", name="sthr_1")
    other = wire.call_of_thread(until("go"), name="sthr_2")
    deadly = wire.call_of_thread(
        f"{until('runs')}; echo x >> deaths; kill -9 {WORKER}; sleep 99", name="sthr_3"
    )
    record = sandbox.start(FIRST, toolCallAttempts=2).record()
    assert {call: entry["deaths"] for call, entry in record["callDeaths"].items()} == {
        innocent: 1,
        other: 1,
        deadly: 1,
    }
    client = sandbox.start(SECOND, toolCallAttempts=2)
    wait_until(lambda: file(sandbox, "runs").read_text() == "x\n" * 2)
    assert file(sandbox, "deaths").read_text() == "x\n"
    file(sandbox, "go").touch()
    assert wire.answer(innocent).splitlines()[-1] == "done"
    record = client.record()
    assert (record["signal"], list(record["callDeaths"])) == (signal.SIGKILL, [deadly])
    sandbox.start(THIRD, toolCallAttempts=2)
    assert wire.answer(deadly).startswith("This call ended the worker 2 times: killed (signal 9).")
    assert file(sandbox, "deaths").read_text() == "x\n" * 2


class Replayed:
    """What one worker posted for a fixed conversation with several threads."""

    def __init__(self, wire: Wire, workdir: Path) -> None:
        self._wire = wire
        self._workdir = workdir

    async def results(self, runner: AbstractContextManager[None]) -> dict[str, Any]:
        self._first_calls()
        async with AsyncAnthropic(base_url=self._wire.url, auth_token="t", open_telemetry=False) as client:
            worker = EnvironmentWorker(client, workdir=self._workdir, max_idle=0.3)
            with runner:
                handling = asyncio.create_task(
                    worker.handle_item(
                        work_id="sesn_1", environment_id="env_1", session_id="sesn_1", work_secret=SECRET
                    )
                )
                await asyncio.to_thread(self._later_calls)
                await asyncio.wait_for(handling, 60)
        return {
            event["tool_use_id"]: (event["type"], event["is_error"], event["content"])
            for event in self._wire.events
            if event["type"] == "user.tool_result" and event.get("by") != "test"
        }

    def _use(self, thread: str | None, name: str, permission: str = "allow", **inputs: Any) -> str:
        return self._wire.emit(
            "agent.tool_use",
            name=name,
            input=inputs,
            evaluated_permission=permission,
            session_thread_id=thread,
        )

    def _first_calls(self) -> None:
        """The calls that the worker finds in the history."""
        wire = self._wire
        wire.say()
        self._use("sthr_1", "write", file_path="one.txt", content="alpha\nbeta\n")
        self._use("sthr_2", "write", file_path="two.txt", content="gamma\n")
        self._use("sthr_1", "edit", file_path="one.txt", old_string="beta", new_string="delta")
        self._use("sthr_2", "read", file_path="nowhere.txt")
        self._use("sthr_1", "read", file_path="one.txt")
        self._use(None, "glob", pattern="*.none")
        self._use("sthr_2", "grep", pattern="(", path="two.txt")
        denied = self._use("sthr_3", "bash", "deny", command="touch denied")
        over = self._use("sthr_over", "bash", command="touch over")
        wire.emit("session.thread_status_terminated", session_thread_id="sthr_over", agent_name="helper")
        answered = self._use("sthr_3", "bash", command="touch answered")
        wire.emit("user.tool_result", tool_use_id=answered, content=[], is_error=False, by="test")
        self._unanswered = {denied, over}

    def _later_calls(self) -> None:
        """The calls that the worker receives by its stream."""
        wire = self._wire
        wire.wait_for(lambda: self._number_of_results() == 8)
        held = self._use("sthr_1", "bash", "ask", command="echo allowed; exit 3")
        refused = self._use("sthr_2", "bash", "ask", command="touch refused")
        wire.emit("user.tool_confirmation", tool_use_id=refused, result="deny")
        self._use("sthr_3", "theirs")
        # Not bash: here all threads share the one shell of the SDK's tool.
        last = self._use(None, "read", file_path="two.txt")
        wire.emit("user.tool_confirmation", tool_use_id=held, result="allow")
        wire.wait_for(lambda: wire.result(held) is not None and wire.result(last) is not None)
        wire.end_turn()

    def _number_of_results(self) -> int:
        return sum(event["type"] == "user.tool_result" for event in self._wire.events)


@pytest.fixture
def second_wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


async def test_the_same_results_are_posted_as_by_the_sdk_alone(
    wire: Wire, second_wire: Wire, tmp_path: Path
) -> None:
    never: Callable[[str], bool] = lambda _: False  # noqa: E731
    ours = side_by_side(ThreadCalls(4, unwanted=(), alone=never, ended=lambda _: None))
    folders = [tmp_path / "a" / "work", tmp_path / "b" / "work"]
    for folder in folders:
        folder.mkdir(parents=True)
    alone = await Replayed(wire, folders[0]).results(nullcontext())
    beside = await Replayed(second_wire, folders[1]).results(ours)
    assert len(alone) == 9
    assert beside == alone
    assert [sorted(each.name for each in folder.iterdir()) for folder in folders] == [
        ["one.txt", "two.txt"]
    ] * 2
