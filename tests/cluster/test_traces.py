"""One trace per turn, as an OTLP receiver gets it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from managed_session_api.credentials import OPERATOR_CREDENTIALS
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.trace_receiver import ReceivedSpan, TraceReceiver, trace_receiver

from ..support.held import WAIT, let_go
from ..support.leaders import leader
from ..support.sessions import QUICK, allow, begin, resource, sandboxes_of, written_down
from ..support.systems import local_system
from ..support.waiting import eventually

CANARY = "canary-of-content"
HEADER = "canary-of-a-header"
ASK = {"tool": "bash", "input": {"command": "echo asked"}, "permission": "ask"}
CALLS_OF_A_FIRST_TURN = {
    "create sandbox": "E2B create",
    "acknowledge": "Anthropic ack",
    "start worker": "E2B worker start",
    "pause sandbox": "E2B pause",
}
"""A call that the operator makes in each of these stages."""
COMMON = ["claim", "acknowledge", "start worker", "first heartbeat", "worker", "pause sandbox"]


@pytest.fixture(scope="module")
def receiver() -> Iterator[TraceReceiver]:
    with trace_receiver() as running:
        yield running


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane, receiver: TraceReceiver) -> AsyncIterator[LocalSystem]:
    environ = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{HEADER}",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=tests",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    settings = {**QUICK, "pause_while_waiting_seconds": "1"}
    async with local_system(
        control_plane, operators=2, operator_settings=settings, environ=environ
    ) as running:
        yield running


async def the_trace(system: LocalSystem, receiver: TraceReceiver, session_id: str) -> list[ReceivedSpan]:
    """Wait for the end of the session's turn and its trace, which the resource names."""
    await eventually("the turn is over", lambda: written_down(system, session_id))
    traceparent = (await resource(system, session_id))["status"]["work"]["trace"]["traceparent"]

    async def look() -> list[ReceivedSpan]:
        return receiver.traces().get(traceparent.split("-")[1], [])

    return await eventually("the trace has arrived", look)


def assert_one_tree(trace: list[ReceivedSpan]) -> ReceivedSpan:
    """One root; each other span has its parent, and lies within it. Returns the root."""
    spans = {span.span_id: span for span in trace}
    (root,) = [span for span in trace if not span.parent_id]
    for span in trace:
        assert span.start <= span.end
        if span is not root:
            parent = spans[span.parent_id]
            assert parent.start <= span.start, (span.name, parent.name)
            assert span.end <= parent.end, (span.name, parent.name)
    return root


def stages(trace: list[ReceivedSpan], root: ReceivedSpan) -> list[str]:
    """The names of the root's children, in the order in which they began."""
    return [
        span.name for span in sorted(trace, key=lambda span: span.start) if span.parent_id == root.span_id
    ]


def calls(trace: list[ReceivedSpan]) -> list[ReceivedSpan]:
    (worker,) = [span for span in trace if span.name == "worker"]
    found = [span for span in trace if span.parent_id == worker.span_id]
    assert [span.name for span in trace if span.name.startswith("execute_tool")] == [s.name for s in found]
    return found


def remote_calls(trace: list[ReceivedSpan], stage: str) -> list[str]:
    """The names of the operator's calls in a stage, in the order in which they began."""
    (parent,) = [span for span in trace if span.name == stage]
    found = [span for span in trace if span.client and span.parent_id == parent.span_id]
    return [span.name for span in sorted(found, key=lambda span: span.start)]


async def test_each_turn_is_one_tree_from_the_webhook_to_the_pause(
    system: LocalSystem, receiver: TraceReceiver
) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say(f"Run: echo {CANARY}; false")
        first = await the_trace(system, receiver, session_id)
        await conversation.say("Run: true")
        second = await the_trace(system, receiver, session_id)
    root = assert_one_tree(first)
    begun = stages(first, root)
    assert [name for name in begun if name in COMMON] == COMMON
    assert begun.index("create sandbox") < begun.index("acknowledge")
    assert "webhook delivery" in begun
    for stage, call_of_it in CALLS_OF_A_FIRST_TURN.items():
        assert call_of_it in remote_calls(first, stage)
    assert {span.attributes["peer.service"] for span in first if span.client} == {"anthropic", "e2b"}
    (call,) = calls(first)
    assert (call.name, call.failed, call.attributes["error.type"]) == (
        "execute_tool bash",
        True,
        "tool_error",
    )
    assert root.attributes["gen_ai.conversation.id"] == session_id
    assert (root.attributes["managed_sessions.exit_reason"], root.failed) == ("Idle", False)
    assert root.service["service.name"] == "managed-session-operator"
    assert root.service["deployment.environment.name"] == "tests"

    second_root = assert_one_tree(second)
    assert second[0].trace_id != first[0].trace_id
    begun = stages(second, second_root)
    assert begun.index("resume sandbox") < begun.index("acknowledge")
    assert remote_calls(second, "resume sandbox") == ["E2B connect"]
    assert [call.failed for call in calls(second)] == [False]


async def test_trace_of_a_turn_that_two_leaders_served_is_one_tree(
    system: LocalSystem, receiver: TraceReceiver
) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        first = await leader(system)
        turn = asyncio.create_task(conversation.say(f"Run: touch begun; {WAIT}", timeout_seconds=120))

        async def begun() -> bool:
            running = await sandboxes_of(system, session_id, "running")
            work = (await resource(system, session_id)).get("status", {}).get("work", {})
            return bool(
                "firstHeartbeatAt" in work and running and running[0].path("/mnt/session/begun").exists()
            )

        await eventually("the command runs", begun)
        await first.process.stop(kill=True)
        await leader(system, other_than=first)
        (sandbox,) = await sandboxes_of(system, session_id)
        let_go(sandbox)
        await turn
        trace = await the_trace(system, receiver, session_id)
        await first.restart()
    root = assert_one_tree(trace)
    begun_stages = stages(trace, root)
    assert [name for name in begun_stages if name in COMMON] == COMMON
    assert "create sandbox" in begun_stages
    assert [call.name for call in calls(trace)] == ["execute_tool bash"]
    of_session = [
        each for each in receiver.spans if each.attributes.get("gen_ai.conversation.id") == session_id
    ]
    assert {each.trace_id for each in of_session} == {root.trace_id}


async def rests(system: LocalSystem, session_id: str, other_than: str = "") -> str:
    """Wait until the session waits in a paused sandbox, as is written down. Return since when."""

    async def look() -> str | None:
        status = (await resource(system, session_id)).get("status", {})
        since: str | None = status.get("work", {}).get("awaitingUserSince")
        return since if status.get("sandbox", {}).get("state") == "Paused" and since != other_than else None

    return await eventually("it waits in a paused sandbox", look)


async def test_a_wait_for_the_user_is_a_span_of_the_turn_whoever_led_when_it_began(
    system: LocalSystem, receiver: TraceReceiver
) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send(json.dumps({"script": [ASK, ASK, {"say": "{result}"}]}))
        began = await rests(system, session_id)
        first = await leader(system)
        await first.process.stop(kill=True)
        await leader(system, other_than=first)
        await allow(system, conversation)
        await rests(system, session_id, other_than=began)
        await allow(system, conversation)
        assert await conversation.answer() == "asked"
        trace = await the_trace(system, receiver, session_id)
        await first.restart()
    assert_one_tree(trace)
    (worker,) = [span for span in trace if span.name == "worker"]
    waits = sorted((span for span in trace if span.name == "wait for user"), key=lambda span: span.start)
    assert [wait.parent_id for wait in waits] == [worker.span_id] * 2
    of_each = [{span.name for span in trace if span.parent_id == wait.span_id} for wait in waits]
    assert {"E2B pause", "E2B connect"} <= of_each[1]
    assert "E2B connect" in of_each[0], "the pause was another leader's"


async def test_traces_show_neither_content_nor_secrets(system: LocalSystem, receiver: TraceReceiver) -> None:
    secrets = [CANARY, HEADER, system.api_key, *system.clouds.only(OPERATOR_CREDENTIALS).values()]
    secrets.remove(system.clouds.environment_id)
    everything = b"".join(receiver.bodies)
    assert everything
    for secret in secrets:
        assert secret.encode() not in everything
        for log in system.logs.values():
            assert HEADER not in log.read_text()
    assert {headers["authorization"] for headers in receiver.headers} == {f"Bearer {HEADER}"}


async def test_duration_of_a_traced_turn_has_its_trace_as_exemplar(
    system: LocalSystem, receiver: TraceReceiver
) -> None:
    async with begin(system) as conversation:
        await conversation.say("Run: true")
        trace = await the_trace(system, receiver, conversation.session_id)
    pod = await leader(system)
    accepts = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        text = (await client.get(f"{pod.probe_url}/metrics", headers=accepts)).text
    assert f'# {{trace_id="{trace[0].trace_id}"}}' in text
