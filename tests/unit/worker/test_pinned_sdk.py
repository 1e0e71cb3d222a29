"""Behaviour of Anthropic's SDK that the worker depends on, so that a new pin shows what has changed.

The SDK's own worker runs against our server, without our code:
- log lines, with their unformatted text and the positions of their arguments (`observation.py`);
- middleware: the outermost comes first, once per HTTP attempt, and its changes of a parsed answer take
effect;
- `handle_item` returns normally when the session is idle, and stops the item;
- one call is executed at a time, "executing tool" is logged in the task that executes it, and a call whose
  result was refused for good is executed again after a reconnect (`results.py` has it executed once);
- unknown events, stop reasons and permissions do not end it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic, Middleware
from anthropic.lib.environments import EnvironmentWorker, _worker
from anthropic.lib.tools import BetaAsyncBuiltinFunctionTool, _beta_session_runner
from anthropic.lib.tools._beta_functions import aclose_runnable_tool
from anthropic.lib.tools.agent_toolset import AgentToolContext, beta_agent_toolset_20260401

from .worker_sandbox import SECRET
from .worker_wire import Wire


class Recorded(logging.Handler):
    """The SDK's log records."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, beginning: str) -> list[tuple[Any, ...]]:
        """Return the arguments of the lines with this beginning."""
        found = [each for each in self.records if str(each.msg).startswith(beginning)]
        return [each.args if isinstance(each.args, tuple) else () for each in found]


class Attempts(Middleware):
    """Counts the attempts."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        self.paths.append(f"{request.method.upper()} {str(request.url).split('?', 1)[0]}")
        return await call_next(request)


@pytest.fixture
def recorded() -> Any:
    handler, logger = Recorded(), logging.getLogger("anthropic")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


async def serve(wire: Wire, workdir: Path, *middleware: Middleware, drive: Callable[[], None]) -> None:
    """Serve the session with only the SDK's worker, while `drive` plays the agent."""
    async with AsyncAnthropic(base_url=wire.url, auth_token="t", open_telemetry=False) as client:
        worker = EnvironmentWorker(client.with_middleware(*middleware), workdir=workdir, max_idle=0.3)
        handling = asyncio.create_task(
            worker.handle_item(
                work_id="sesn_1", environment_id="env_1", session_id="sesn_1", work_secret=SECRET
            )
        )
        await asyncio.to_thread(drive)
        await asyncio.wait_for(handling, 30)


async def test_a_turn_causes_the_log_lines_and_requests_that_we_read(
    wire: Wire, tmp_path: Path, recorded: Recorded
) -> None:
    attempts, calls = Attempts(), list[str]()

    def drive() -> None:
        wire.wait_for(lambda: wire.count("GET", "/events/stream") == 1)
        wire.say()
        calls.append(wire.call("echo done"))
        wire.wait_for(lambda: wire.result(calls[0]) is not None)
        calls.append(wire.emit("agent.tool_use", name="theirs", input={}, evaluated_permission="allow"))
        wire.wait_for(lambda: bool(recorded.of("tool %r not owned by this runner")))
        wire.emit("user.tool_result", tool_use_id=calls[1], content=[], is_error=False)
        wire.end_turn()

    await serve(wire, tmp_path, attempts, drive=drive)
    assert recorded.of("executing tool ") == [("bash", calls[0]), ("theirs", calls[1])]
    assert recorded.of("tool %r not owned by this runner") == [("theirs", calls[1])]
    assert recorded.of("session idle for ")
    assert "POST /v1/environments/env_1/work/sesn_1/heartbeat" in attempts.paths
    assert "GET /v1/sessions/sesn_1" in attempts.paths
    assert "GET /v1/sessions/sesn_1/events/stream" in attempts.paths
    assert attempts.paths.count("POST /v1/sessions/sesn_1/events") == 1
    assert wire.count("POST", "/stop") == 1


async def test_a_call_whose_result_is_refused_for_good_runs_again_after_a_reconnect(
    wire: Wire, tmp_path: Path, recorded: Recorded
) -> None:
    wire.refuse_results_with, wire.refusals = 400, 1

    def drive() -> None:
        wire.wait_for(lambda: wire.count("GET", "/events/stream") == 1)
        wire.say()
        call = wire.call_of_thread("echo run >> runs", waits=False)
        wire.wait_for(lambda: bool(recorded.of("failed to send tool result")))
        assert recorded.of("failed to send tool result")[0][0] == call
        wire.sever_streams()
        wire.wait_for(lambda: wire.result(call) is not None)
        wire.end_turn()

    await serve(wire, tmp_path, drive=drive)
    assert (tmp_path / "runs").read_text() == "run\n" * 2


async def test_middleware_sees_each_attempt_and_the_outermost_comes_first(wire: Wire, tmp_path: Path) -> None:
    wire.unreadable_histories = 1
    order: list[str] = []

    class Named(Attempts):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def handle_async(self, request: Any, call_next: Any) -> Any:
            if str(request.url).endswith("/events"):
                order.append(self.name)
            return await super().handle_async(request, call_next)

    def drive() -> None:
        wire.wait_for(lambda: wire.count("GET", "/events") >= 2)
        wire.say()
        wire.emit("session.status_terminated")

    await serve(wire, tmp_path, Named("outer"), Named("inner"), drive=drive)
    assert order[:4] == ["outer", "inner"] * 2


async def test_unknown_things_do_not_end_the_sdks_worker(
    wire: Wire, tmp_path: Path, recorded: Recorded
) -> None:
    def drive() -> None:
        wire.wait_for(lambda: wire.count("GET", "/events/stream") == 1)
        wire.say()
        wire.emit("agent.dreams", of={"sheep": [1, None]})
        wire.emit("session.status_dreaming")
        wire.emit("session.updated", never="seen")
        wire.emit("span.never_seen", input="text where an object was")
        held = wire.emit("agent.tool_use", name="bash", input={}, evaluated_permission="whim", more=1)
        wire.emit("user.tool_confirmation", tool_use_id=held, result="shrug")
        assert wire.run("echo done") == ("done", False)
        wire.emit("session.status_idle", stop_reason={"type": "never_seen_before", "of": 1})

    await serve(wire, tmp_path, drive=drive)
    assert [name for name, _ in recorded.of("executing tool ")] == ["bash"], "an unknown verdict is no allow"


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (_beta_session_runner, '"executing tool tool=%s tool_use_id=%s"'),
        (_beta_session_runner, '"thread terminated; not posting the result tool=%s tool_use_id=%s"'),
        (_beta_session_runner, '"failed to send tool result tool_use_id=%s'),
        (_beta_session_runner, '"session idle for %.0fs'),
        (_beta_session_runner, '"session terminated"'),
        (_worker, '"lease assumed lost'),
    ],
)
def test_the_log_lines_that_are_hard_to_provoke_exist(module: Any, text: str) -> None:
    assert text in inspect.getsource(module)


def test_the_toolset_is_made_of_async_tools_that_can_be_wrapped(tmp_path: Path) -> None:
    tools = beta_agent_toolset_20260401(AgentToolContext(workdir=tmp_path))
    assert [tool.name for tool in tools] == ["bash", "read", "write", "edit", "glob", "grep"]
    assert all(inspect.iscoroutinefunction(tool.call) for tool in tools)
    assert inspect.isabstract(BetaAsyncBuiltinFunctionTool)
    assert inspect.iscoroutinefunction(aclose_runnable_tool)
