"""Sessions, their events and their streams, through the SDK and its types."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
from anthropic.types.beta import BetaEnvironment, BetaManagedAgentsAgent, BetaManagedAgentsSession
from anthropic.types.beta.environments import BetaSelfHostedWork
from anthropic.types.beta.sessions import (
    BetaManagedAgentsSendSessionEvents,
    BetaManagedAgentsSessionEvent,
)
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator
from pydantic import BaseModel, TypeAdapter

from .conftest import DEFAULTS, Api, token_of, until


def result(tool_use_id: str, text: str = "done") -> Any:
    content = [{"type": "text", "text": text}]
    return {"type": "user.tool_result", "tool_use_id": tool_use_id, "content": content}


async def raw(api: Api, path: str, **options: Any) -> Any:
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as http:
        key = options.pop("key", DEFAULTS.api_key)
        response = await http.request(
            options.pop("method", "GET"), path, headers={"authorization": f"Bearer {key}"}, **options
        )
    response.raise_for_status()
    return response.json()


@contextlib.asynccontextmanager
async def stream(api: Api, session_id: str) -> AsyncIterator[AsyncIterator[Any]]:
    async with await api.admin.beta.sessions.events.stream(session_id) as events:
        yield aiter(events)


async def test_answers_hold_every_field_that_the_sdk_types_require(api: Api) -> None:
    resource: Any = {"type": "memory_store", "memory_store_id": "memstore_1"}
    session = await api.create("Run: echo x", title="Title", metadata={"team": "red"}, resources=[resource])
    await api.tool_use(session.id)
    answers: list[tuple[str, type[BaseModel]]] = [
        (f"/v1/sessions/{session.id}", BetaManagedAgentsSession),
        (f"/v1/agents/{api.agent_id}", BetaManagedAgentsAgent),
        (f"/v1/environments/{api.environment_id}", BetaEnvironment),
        (f"/v1/environments/{api.environment_id}/work/{session.id}", BetaSelfHostedWork),
    ]
    for path, model in answers:
        model.model_validate(await raw(api, path))
    sent = await raw(
        api,
        f"/v1/sessions/{session.id}/events",
        method="POST",
        json={"events": [{"type": "user.interrupt"}]},
    )
    BetaManagedAgentsSendSessionEvents.model_validate(sent)
    events = (await raw(api, f"/v1/sessions/{session.id}/events"))["data"]
    adapter: TypeAdapter[Any] = TypeAdapter(BetaManagedAgentsSessionEvent)
    for event in events:
        assert adapter.validate_python(event).type == event["type"]


async def test_session_starts_idle_and_runs_on_initial_events(api: Api) -> None:
    assert (await api.create()).status == "idle"
    content: Any = [{"type": "text", "text": "Run: echo x"}]
    busy = await api.create(initial_events=[{"type": "user.message", "content": content}])
    await api.tool_use(busy.id)


async def test_resources_other_than_memory_stores_are_refused(api: Api) -> None:
    resource: Any = {"type": "file", "file_id": "file_1", "mount_path": "/x"}
    with pytest.raises(anthropic.BadRequestError, match="not supported with self-hosted environments"):
        await api.create(resources=[resource])


async def test_list_filters_by_status_and_archived_and_pages(api: Api) -> None:
    sessions = [await api.create() for _ in range(5)]
    await api.admin.beta.sessions.archive(sessions[0].id)
    listed = [row.id async for row in api.admin.beta.sessions.list(limit=2)]
    assert listed == [session.id for session in reversed(sessions[1:])]
    everything = [row.id async for row in api.admin.beta.sessions.list(include_archived=True)]
    assert len(everything) == 5
    terminated = api.admin.beta.sessions.list(include_archived=True, statuses=["terminated"])
    assert [row.id async for row in terminated] == [sessions[0].id]
    since = sessions[3].created_at
    assert len([row async for row in api.admin.beta.sessions.list(created_at_gte=since)]) == 2


async def test_running_session_can_be_neither_archived_nor_deleted(api: Api) -> None:
    session = await api.create('{"script": [{"sleep_ms": 60000}]}')
    for end in (api.admin.beta.sessions.archive, api.admin.beta.sessions.delete):
        with pytest.raises(anthropic.BadRequestError, match="interrupt it first"):
            await end(session.id)
    await api.interrupt(session.id)
    archived = await api.admin.beta.sessions.archive(session.id)
    assert archived.status == "terminated"
    assert archived.archived_at is not None
    with pytest.raises(anthropic.BadRequestError, match="Cannot send events to archived session"):
        await api.say(session.id, "hello")


async def test_deletion_is_reported_on_the_stream_before_the_session_is_gone(api: Api) -> None:
    session = await api.create()
    async with stream(api, session.id) as events:
        deleted = await api.admin.beta.sessions.delete(session.id)
        assert (deleted.id, deleted.type) == (session.id, "session_deleted")
        assert [event.type async for event in events] == ["session.deleted"]
    with pytest.raises(anthropic.NotFoundError):
        await api.admin.beta.sessions.retrieve(session.id)


async def test_message_at_the_wrong_time_is_refused_with_the_reason(api: Api) -> None:
    session = await api.create("Run: echo x")
    tool_use_id = await api.tool_use(session.id)
    with pytest.raises(anthropic.BadRequestError) as caught:
        await api.say(session.id, "hello?")
    assert (
        f"Invalid user.message event at events[0]: waiting on responses to events [{tool_use_id}]"
        in caught.value.message
    )


async def test_partial_results_name_the_calls_that_are_still_open(api: Api) -> None:
    call = '{"tool": "bash", "input": {"command": "x"}}'
    session = await api.create(f'{{"script": [{{"tools": [{call}, {call}]}}, {{"say": "{{result}}"}}]}}')
    second = await api.tool_use(session.id)
    idle = (await api.events(session.id))[-1]
    first = idle.stop_reason.event_ids[0]
    send = api.admin.beta.sessions.events.send
    await send(session.id, events=[result(second)])
    idle = (await api.events(session.id))[-1]
    assert idle.stop_reason.event_ids == [first]
    await send(session.id, events=[result(first, "all")])
    assert await api.answer(session.id) == "done"


async def test_result_of_an_answered_or_interrupted_call_is_refused_and_counted(
    api: Api, simulator: AnthropicSimulator
) -> None:
    session = await api.create("Run: echo x")
    answered = await api.tool_use(session.id)
    send = api.admin.beta.sessions.events.send
    await send(session.id, events=[result(answered)])
    await api.answer(session.id)
    with pytest.raises(anthropic.BadRequestError):
        await send(session.id, events=[result(answered)])
    await api.say(session.id, "Run: echo y")
    interrupted = await api.tool_use(session.id)
    await api.interrupt(session.id)
    with pytest.raises(anthropic.BadRequestError):
        await send(session.id, events=[result(interrupted)])
    await simulator.change_settings(events={"unexpected_results": "accept"})
    await send(session.id, events=[result(interrupted)])
    counts = (await simulator.session(session.id)).counts
    assert (counts["results"], counts["results_rejected"], counts["results_repeated"]) == (2, 2, 2)
    assert counts["turns_interrupted"] == 1


async def test_empty_text_in_a_result_is_refused(api: Api) -> None:
    session = await api.create("Run: echo x")
    tool_use_id = await api.tool_use(session.id)
    with pytest.raises(anthropic.BadRequestError, match="minimum string length is 1"):
        await api.admin.beta.sessions.events.send(session.id, events=[result(tool_use_id, "")])


async def test_result_by_a_worker_without_the_lease_is_counted(
    api: Api, simulator: AnthropicSimulator
) -> None:
    session = await api.create("Run: echo x")
    old = await api.claim()
    await api.beat(old)
    await simulator.lapse_lease(old.id)
    await api.beat(await api.claim())
    await api.client(token_of(old)).beta.sessions.events.send(
        session.id, events=[result(await api.tool_use(session.id))]
    )
    assert (await simulator.session(session.id)).counts["results_without_lease"] == 1


async def test_call_that_needs_confirmation_waits_for_it(api: Api) -> None:
    step = '{"tool": "bash", "input": {"command": "x"}, "permission": "ask"}'
    session = await api.create(f'{{"script": [{step}, {step}, {{"say": "{{result}}"}}]}}')
    send = api.admin.beta.sessions.events.send
    first = await api.tool_use(session.id)
    with pytest.raises(anthropic.BadRequestError, match="waits for a confirmation"):
        await send(session.id, events=[result(first)])
    await send(
        session.id, events=[{"type": "user.tool_confirmation", "tool_use_id": first, "result": "allow"}]
    )
    await send(session.id, events=[result(first)])
    second = await api.tool_use(session.id)
    assert second != first
    deny: Any = {
        "type": "user.tool_confirmation",
        "tool_use_id": second,
        "result": "deny",
        "deny_message": "no",
    }
    await send(session.id, events=[deny])
    assert await api.answer(session.id) == "no"


async def test_custom_tool_is_answered_by_its_own_kind_of_result(api: Api) -> None:
    session = await api.create('{"script": [{"tool": "lookup", "custom": true}, {"say": "{result}"}]}')
    event_id = await api.tool_use(session.id)
    send = api.admin.beta.sessions.events.send
    with pytest.raises(anthropic.BadRequestError):
        await send(session.id, events=[result(event_id)])
    answer: Any = {
        "type": "user.custom_tool_result",
        "custom_tool_use_id": event_id,
        "content": [{"type": "text", "text": "found"}],
    }
    await send(session.id, events=[answer])
    assert await api.answer(session.id) == "found"


async def test_message_during_a_turn_waits_for_the_end_of_that_turn(api: Api) -> None:
    session = await api.create('{"script": [{"sleep_ms": 60000}, {"say": "first"}]}')
    await api.say(session.id, "second")
    queued = next(event for event in reversed(await api.events(session.id)) if event.type == "user.message")
    assert queued.processed_at is None
    await api.interrupt(session.id)
    assert await api.answer(session.id) == "You said: second"
    events = await api.events(session.id)
    assert all(event.processed_at is not None for event in events)
    assert len({event.id for event in events}) == len(events)


async def test_events_are_listed_by_page_order_and_type(api: Api) -> None:
    session = await api.create("one")
    await api.answer(session.id)
    everything = await api.events(session.id)
    assert [event.id for event in await api.events(session.id, limit=1)] == [event.id for event in everything]
    backwards = await api.events(session.id, order="desc", limit=3)
    assert [event.id for event in backwards] == [event.id for event in reversed(everything)]
    messages = await api.events(session.id, types=["user.message", "agent.message"])
    assert [event.type for event in messages] == ["user.message", "agent.message"]


async def test_stream_carries_events_from_its_start_on(api: Api) -> None:
    session = await api.create("before")
    await api.answer(session.id)
    async with stream(api, session.id) as events:
        await api.say(session.id, "after")
        seen = [(await anext(events)).type for _ in range(5)]
    assert seen == [
        "user.message",
        "session.status_running",
        "agent.message",
        "session.usage",
        "session.status_idle",
    ]


async def test_every_stream_record_has_an_event_line_and_pings_fill_silence(
    api: Api, simulator: AnthropicSimulator
) -> None:
    await simulator.change_settings(events={"ping_seconds": 0.05})
    session = await api.create()
    headers = {"authorization": f"Bearer {DEFAULTS.api_key}"}
    url = f"{api.url}/v1/sessions/{session.id}/events/stream"
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        http.stream("GET", url, headers=headers) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = aiter(response.aiter_lines())
        assert [await anext(lines) for _ in range(4)] == [
            "event: ping",
            'data: {"type":"ping"}',
            "",
            "event: ping",
        ]


async def test_severed_stream_ends_cleanly(api: Api, simulator: AnthropicSimulator) -> None:
    session = await api.create()
    async with stream(api, session.id) as events:
        assert await simulator.sever_streams(session.id) == 1
        assert [event async for event in events] == []


async def test_stream_can_be_cut_after_some_events(api: Api, simulator: AnthropicSimulator) -> None:
    await simulator.add_fault("events.stream", {"action": "sever", "after_events": 1})
    session = await api.create()
    async with stream(api, session.id) as events:
        await api.say(session.id, "hello")
        assert (await anext(events)).type == "user.message"
        with pytest.raises(httpx2.RemoteProtocolError):
            await asyncio.wait_for(anext(events), 30)


async def test_two_workers_at_once_are_counted(api: Api, simulator: AnthropicSimulator) -> None:
    session = await api.create()
    work = await api.claim()
    client = api.client(token_of(work)).with_options(
        default_headers={"x-stainless-helper": "session-tool-runner"}
    )
    events = client.beta.sessions.events
    async with await events.stream(session.id):
        assert (await simulator.session(session.id)).worker_streams == 1
        async with await events.stream(session.id):
            assert (await simulator.session(session.id)).counts["worker_streams_overlapping"] == 1

    async def none_left() -> bool:
        return (await simulator.session(session.id)).worker_streams == 0

    await until(none_left)


async def test_stream_held_until_its_client_was_gone_is_not_a_second_worker(
    api: Api, simulator: AnthropicSimulator
) -> None:
    session = await api.create()
    client = api.client(token_of(await api.claim())).with_options(
        default_headers={"x-stainless-helper": "session-tool-runner"}, max_retries=0
    )
    events = client.beta.sessions.events
    await simulator.add_fault("events.stream", {"action": "hang", "seconds": 600})
    with pytest.raises(anthropic.APITimeoutError):
        await events.stream(session.id, timeout=1.5)
    async with await events.stream(session.id):
        await simulator.clear_faults()

        async def served() -> bool:
            operations = (await simulator.ledger(calls=False)).operations
            return sum(operations["events.stream"].values()) == 2

        await until(served)
        seen = await simulator.session(session.id)
        assert seen.worker_streams == 1
        assert seen.counts["worker_streams_overlapping"] == 0


async def test_rescheduling_and_other_stop_reasons_can_be_scripted(api: Api) -> None:
    session = await api.create('{"script": [{"reschedule_ms": 1}, {"say": "x"}, {"stop": "refusal"}]}')

    async def stop_reason() -> str:
        last = (await api.events(session.id))[-1]
        return str(last.stop_reason.type) if last.type == "session.status_idle" else ""

    assert await until(stop_reason) == "refusal"
    assert "session.status_rescheduled" in [event.type for event in await api.events(session.id)]
