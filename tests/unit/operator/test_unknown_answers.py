"""Unknown event types, states, values and fields affect only their own item."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC
from typing import Any

import pytest
from hypothesis import HealthCheck as Check
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_session_operator.clients.anthropic.work_queue import WorkQueue
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.offer import Offer
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.domain.turn import Awaited
from managed_session_operator.domain.work_item import HealthCheck

from .examples import key
from .open_answers import JSON, Answering, odd

T = "2026-11-25T10:00:00Z"
WORK = {
    "type": "work",
    "id": "sesn_odd",
    "environment_id": "env_1",
    "created_at": T,
    "state": "queued",
    "data": {"type": "session", "id": "sesn_odd"},
    "metadata": {},
    "acknowledged_at": T,
    "started_at": None,
    "latest_heartbeat_at": None,
    "stop_requested_at": None,
    "stopped_at": None,
    "secret": None,
}
GOOD = WORK | {"id": "sesn_good", "state": "starting", "data": {"type": "session", "id": "sesn_good"}}
SESSION = {
    "type": "session",
    "id": "sesn_1",
    "environment_id": "env_1",
    "agent": {"id": "agent_1", "type": "agent", "skills": []},
    "status": "idle",
    "archived_at": None,
    "metadata": {},
}
SANDBOX = {
    "templateID": "template",
    "sandboxID": "iodd",
    "clientID": "client",
    "state": "running",
    "startedAt": T,
    "endAt": T,
    "cpuCount": 2,
    "memoryMB": 1024,
    "diskSizeMB": 1024,
    "envdVersion": "0.6.13",
    "metadata": {"ours": "yes"},
}
GOOD_SANDBOX = SANDBOX | {"sandboxID": "igood", "state": "paused"}
CALL = {
    "type": "agent.tool_use",
    "id": "sevt_call",
    "name": "bash",
    "input": {},
    "evaluated_permission": "allow",
    "processed_at": T,
}


def event(type_: str, **fields: Any) -> dict[str, Any]:
    return {"type": type_, "id": f"sevt_{type_}", "processed_at": T, **fields}


def idle(reason: str, *calls: str) -> dict[str, Any]:
    return event(
        "session.status_idle", stop_reason={"type": reason, **({"event_ids": calls} if calls else {})}
    )


TURNS = [
    ([event("session.status_running"), CALL, idle("requires_action", "sevt_call")], Awaited.RESULTS),
    ([event("session.status_running"), idle("end_turn")], Awaited.NOBODY),
    ([event("session.status_running"), idle("never_seen_before")], Awaited.NOBODY),
    ([event("user.message", content=[])], Awaited.AGENT),
]
UNKNOWN_TYPES = st.sampled_from(
    [
        "agent.dreams",
        "user.shrugs",
        "system.message",
        "span.new",
        "session.usage",
        "workflow_run.new",
        "x",
        "",
    ]
)
UNKNOWN_EVENTS = st.builds(lambda event, kind: event | {"type": kind}, odd(event("x", of={})), UNKNOWN_TYPES)

fuzzed = settings(
    max_examples=60, deadline=None, suppress_health_check=[Check.function_scoped_fixture, Check.too_slow]
)


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Answering]:
    async with Answering().serving() as server:
        yield server


@pytest.fixture
def queue(server: Answering, monkeypatch: pytest.MonkeyPatch) -> WorkQueue:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    return WorkQueue(lambda: "env_1", key(), worker_id="test", fence=lambda: None, timeout=20)


@pytest.fixture
def sandboxes(server: Answering, monkeypatch: pytest.MonkeyPatch) -> Sandboxes:
    monkeypatch.setenv("E2B_API_URL", server.url)
    monkeypatch.setenv("E2B_HTTP_VERSION", "1.1")
    return Sandboxes(key("e2b_" + "0" * 40), fence=lambda: None, request_timeout=20, create_timeout=20)


@fuzzed
@given(items=st.lists(odd(WORK), max_size=3))
async def test_an_odd_item_hides_no_other_in_the_work_list(
    server: Answering, queue: WorkQueue, items: list[dict[str, Any]]
) -> None:
    server.body = {"data": [*items, GOOD], "next_page": None}
    found = (await queue.items()).of_session("sesn_good")
    assert found is not None
    assert (found.state, found.unstarted) == ("starting", True)
    assert await queue.state("sesn_good") == "starting"


@fuzzed
@given(
    item=odd(WORK) | st.builds(lambda data: WORK | {"data": data}, odd({"type": "session", "id": "sesn_1"}))
)
async def test_an_odd_offer_is_served_or_left_in_the_queue(
    server: Answering, queue: WorkQueue, item: dict[str, Any]
) -> None:
    server.body = item
    assert isinstance(await queue.poll(block_ms=1, reclaim_ms=1), Offer | HealthCheck | None)


@fuzzed
@given(
    turn=st.sampled_from(TURNS),
    unknown=st.lists(st.tuples(st.integers(0, 9), UNKNOWN_EVENTS), max_size=4),
)
async def test_unknown_events_change_nothing_about_who_has_to_act(
    server: Answering,
    queue: WorkQueue,
    turn: tuple[list[dict[str, Any]], Awaited],
    unknown: list[tuple[int, dict[str, Any]]],
) -> None:
    events, awaited = list(turn[0]), turn[1]
    for position, each in unknown:
        events.insert(min(position, len(events)), each | {"processed_at": T})
    server.body = {"data": events[::-1], "next_page": None}
    found = await queue.turn("sesn_1")
    assert found is not None
    assert found.awaited is awaited
    assert await queue.has_message("sesn_1") is not None


@fuzzed
@given(events=st.lists(odd(CALL) | odd(idle("requires_action", "sevt_call")) | UNKNOWN_EVENTS, max_size=5))
async def test_odd_events_do_not_make_a_turn_unreadable(
    server: Answering, queue: WorkQueue, events: list[dict[str, Any]]
) -> None:
    server.body = {"data": events, "next_page": None}
    assert await queue.turn("sesn_1") is not None


@fuzzed
@given(session=odd(SESSION, kept=("id", "environment_id", "agent", "status", "archived_at")), status=JSON)
async def test_a_session_with_an_odd_status_or_fields_continues(
    server: Answering, queue: WorkQueue, session: dict[str, Any], status: object
) -> None:
    server.body = session | {"status": status}
    view = await queue.session("sesn_1")
    assert view is not None
    assert view.ended is (status == "terminated")


@fuzzed
@given(listed=st.lists(odd(SANDBOX), max_size=3))
async def test_an_odd_sandbox_hides_no_other_in_the_list(
    server: Answering, sandboxes: Sandboxes, listed: list[dict[str, Any]]
) -> None:
    server.body = [*listed, GOOD_SANDBOX]
    found = {view.sandbox_id: view for view in await sandboxes.list({"ours": "yes"})}
    assert found["igood"].paused
    assert all(_is_sound(view) for view in found.values())


async def test_a_sandbox_in_an_unknown_state_exists_and_does_not_count_as_running(
    server: Answering, sandboxes: Sandboxes
) -> None:
    server.body = [SANDBOX | {"state": "hibernating"}, GOOD_SANDBOX | {"state": "running"}]
    assert [(view.sandbox_id, view.paused) for view in await sandboxes.list({"ours": "yes"})] == [
        ("iodd", True),
        ("igood", False),
    ]


@fuzzed
@given(sandbox=odd(SANDBOX))
async def test_an_odd_sandbox_is_at_most_its_own_error(
    server: Answering, sandboxes: Sandboxes, sandbox: dict[str, Any]
) -> None:
    server.body = sandbox
    with contextlib.suppress(OperationError):
        view = await sandboxes.info("iodd")
        assert view is not None
        assert _is_sound(view)


def _is_sound(view: SandboxView) -> bool:
    """Return whether the fields have the types that the operator expects."""
    texts = (view.sandbox_id, view.template_id, *view.metadata, *view.metadata.values())
    times = (view.started_at, view.end_at)
    return all(isinstance(text, str) for text in texts) and all(time.tzinfo is UTC for time in times)
