"""Threads of sub-agents, pauses of workflows, and events that no SDK knows."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from anthropic import BadRequestError
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator

from .conftest import Api, serve, until


def script(*steps: dict[str, Any]) -> str:
    return json.dumps({"script": list(steps)})


def bash(command: str, **fields: Any) -> dict[str, Any]:
    return {"tool": "bash", "input": {"command": command}, **fields}


async def test_sdk_worker_serves_the_calls_of_sub_agents_threads(api: Api, tmp_path: Path) -> None:
    threads = [[bash("echo one", expect="one")], [bash("echo two", expect="two")]]
    session = await api.create(script({"threads": threads}, bash("echo three"), {"say": "{result}"}))
    await serve(api, await api.claim(), tmp_path)
    assert await api.answer(session.id) == "three"
    events = await api.events(session.id)
    kinds = [event.type for event in events]
    assert kinds.count("session.thread_created") == 2
    calls = [event for event in events if event.type == "agent.tool_use"]
    assert len({call.session_thread_id for call in calls[:2]} - {None}) == 2
    assert calls[2].session_thread_id is None
    of_one = [
        getattr(event.stop_reason, "event_ids", event.stop_reason.type)
        for event in events
        if event.type == "session.thread_status_idle"
        and event.session_thread_id == calls[0].session_thread_id
    ]
    assert of_one == [[calls[0].id], "end_turn"]


async def test_a_session_waits_if_all_its_threads_wait(api: Api) -> None:
    session = await api.create(script({"threads": [[bash("a")], [{"sleep_ms": 600_000}]]}, {"say": "x"}))

    async def thread_waits() -> bool:
        return "session.thread_status_idle" in [event.type for event in await api.events(session.id)]

    await until(thread_waits)
    assert (await api.admin.beta.sessions.retrieve(session.id)).status == "running"
    await api.interrupt(session.id)
    other = await api.create(script({"thread": [bash("a")]}, {"say": "x"}))
    call = await api.tool_use(other.id)
    events = await api.events(other.id)
    assert [event.id for event in events if event.type == "agent.tool_use"] == [call]


async def test_a_sub_agents_result_is_refused_until_its_call_is_old_enough(
    api: Api, simulator: AnthropicSimulator
) -> None:
    await simulator.change_settings(events={"thread_calls_settle_ms": 3_600_000})
    session = await api.create(script({"thread": [bash("a", expect="done")]}, {"say": "after"}))
    call = await api.tool_use(session.id)
    event: Any = {
        "type": "user.tool_result",
        "tool_use_id": call,
        "content": [{"type": "text", "text": "done"}],
    }
    with pytest.raises(BadRequestError, match=r"does not match any agent\.tool_use event"):
        await api.admin.beta.sessions.events.send(session.id, events=[event])
    await simulator.change_settings(events={"thread_calls_settle_ms": 1})

    async def taken() -> bool:
        with contextlib.suppress(BadRequestError):
            await api.admin.beta.sessions.events.send(session.id, events=[event])
            return True
        return False

    await until(taken)
    assert await api.answer(session.id) == "after"


async def test_a_terminated_thread_accepts_no_results(api: Api, tmp_path: Path) -> None:
    thread = [bash("echo one"), {"terminate": True}]
    session = await api.create(script({"thread": thread}, {"say": "after"}))
    await serve(api, await api.claim(), tmp_path)
    assert await api.answer(session.id) == "after"
    kinds = [event.type for event in await api.events(session.id)]
    assert "session.thread_status_terminated" in kinds
    assert "session.status_terminated" not in kinds


async def test_an_interrupt_of_one_thread_ends_its_call_and_no_other(api: Api) -> None:
    threads = [[bash("sleep 600")], [bash("echo two", expect="two")]]
    session = await api.create(script({"threads": threads}, bash("echo three"), {"say": "{result}"}))

    async def called() -> list[Any]:
        calls = [event for event in await api.events(session.id) if event.type == "agent.tool_use"]
        return calls if len(calls) == 2 else []

    calls = await until(called)
    ended = next(call for call in calls if "sleep" in call.input["command"])
    interrupt: Any = {"type": "user.interrupt", "session_thread_id": ended.session_thread_id}
    await api.admin.beta.sessions.events.send(session.id, events=[interrupt])
    result: Any = {"type": "user.tool_result", "tool_use_id": ended.id, "content": []}
    with pytest.raises(BadRequestError, match="not waiting"):
        await api.admin.beta.sessions.events.send(session.id, events=[result])
    other = next(call for call in calls if call is not ended)
    await _answer(api, session.id, other.id, "two")
    await _answer(api, session.id, await until(lambda: _third(api, session.id)), "three")
    assert await api.answer(session.id) == "three"


async def _answer(api: Api, session_id: str, call: str, text: str) -> None:
    content = [{"type": "text", "text": text}]
    result: Any = {"type": "user.tool_result", "tool_use_id": call, "content": content}
    await api.admin.beta.sessions.events.send(session_id, events=[result])


async def _third(api: Api, session_id: str) -> str:
    calls = [event.id for event in await api.events(session_id) if event.type == "agent.tool_use"]
    return calls[2] if len(calls) == 3 else ""


async def test_a_workflows_pause_makes_the_session_idle_and_later_queues_work(
    api: Api, tmp_path: Path
) -> None:
    session = await api.create(
        script(bash("echo one"), {"pause_ms": 4000}, bash("echo two"), {"say": "{result}"})
    )
    await serve(api, await api.claim(), tmp_path, max_idle=0.05)
    assert await api.state(session.id) == "stopped"
    work = await api.offered(block_ms=900)
    assert work.id == session.id
    await api.worker.beta.environments.work.ack(work.id, environment_id=api.environment_id)
    await serve(api, work, tmp_path)
    assert await api.answer(session.id) == "two"


async def test_a_script_can_send_any_event_and_stop_reason(api: Api) -> None:
    session = await api.create(
        script({"event": {"type": "agent.dreams", "of": {"sheep": 3}}}, {"stop": "never_seen_before"})
    )

    async def stopped() -> list[Any]:
        events = await api.events(session.id)
        return events if events[-1].type == "session.status_idle" else []

    events = await until(stopped)
    assert events[-1].stop_reason.type == "never_seen_before"
    assert "agent.dreams" in [event.type for event in events]


async def test_budget_reached_is_reported_by_stream_and_webhook(
    api: Api, simulator: AnthropicSimulator
) -> None:
    session = await api.create(script({"stop": "budget_reached"}))

    async def reported() -> bool:
        report = await simulator.session(session.id)
        return "session.budget_reached" in [entry["kind"] for entry in report.timeline]

    await until(reported)
    assert (await api.events(session.id))[-1].stop_reason.type == "budget_reached"
