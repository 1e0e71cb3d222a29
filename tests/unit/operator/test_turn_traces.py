"""The trace of a turn: its tree, its IDs, and what leads to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.conditions import Reason
from managed_session_api.times import to_wire
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.remote_calls import E2B, RemoteCall, noted_calls, remote_call
from managed_session_operator.domain.span import Span
from managed_session_operator.domain.turn_trace import (
    ACKNOWLEDGE,
    CLAIM,
    CREATE,
    HEARTBEAT,
    PAUSE,
    PREPARE,
    RESUME,
    START,
    TURN,
    WAIT,
    WEBHOOK,
    WORKER,
    Ended,
    TraceContext,
    exemplar_of,
    spans_of,
    worker_traceparent,
)
from managed_session_operator.domain.worker_run import CallReport, ExitRecord, WorkerRun, call_report

from .examples import CLAIM as CLAIM_ID
from .examples import NOW, ago, session
from .in_memory_spans import assert_one_tree
from .play import Play

CONTEXT = TraceContext(7, sampled=True)
STAGES = [WEBHOOK, CLAIM, CREATE, START, PAUSE, f"{WAIT} 1", f"{WAIT} 2"]
times = st.floats(-1e6, 1e6).map(ago)


@pytest.fixture
def play() -> Iterator[Play]:
    playing = Play()
    yield playing
    playing.teardown()


def names(spans: list[Span]) -> list[str]:
    return [span.name for span in spans]


def the_trace(play: Play) -> list[Span]:
    (trace,) = play.world.spans.traces.values()
    return trace


def test_the_ids_depend_on_the_resource_and_the_claim_alone() -> None:
    once, again = TraceContext.new("uid", CLAIM_ID), TraceContext.new("uid", CLAIM_ID)
    assert once == again
    assert once.span_id(TURN) == again.span_id(TURN) != once.span_id(WORKER)
    assert (
        len({once.trace_id, TraceContext.new("uid", "x").trace_id, TraceContext.new("x", CLAIM_ID).trace_id})
        == 3
    )
    assert TraceContext.parse(once.traceparent()) == once
    assert TraceContext.parse(CONTEXT.traceparent()) == CONTEXT


def test_a_worker_gets_its_own_span_as_parent() -> None:
    resource = session({"work": {"trace": {"traceparent": CONTEXT.traceparent()}}})
    assert worker_traceparent(resource) == f"00-{7:032x}-{CONTEXT.span_id(WORKER):016x}-01"
    assert worker_traceparent(session({"work": {}})) is None


def test_only_a_sampled_trace_is_an_exemplar() -> None:
    for context, exemplar in ((CONTEXT, {"trace_id": f"{7:032x}"}), (TraceContext(7, sampled=False), None)):
        resource = session({"work": {"trace": {"traceparent": context.traceparent()}}})
        assert exemplar_of(resource) == exemplar
    assert exemplar_of(session()) is None


def call_from(identifier: str, began: datetime, ended: datetime) -> CallReport:
    found = call_report(
        {"id": identifier, "tool": "bash", "startedAt": to_wire(began), "endedAt": to_wire(ended)}
    )
    assert found is not None
    return found


@st.composite
def ended_turns(draw: st.DrawFn) -> Ended:
    """A turn with any of its parts missing, and any times."""
    stages = [
        {"name": name, "startedAt": to_wire(min(pair)), "endedAt": to_wire(max(pair))}
        for name in draw(st.lists(st.sampled_from(STAGES), unique=True))
        for pair in [(draw(times), draw(times))]
    ]
    optional = st.none() | times.map(to_wire)
    work = {
        "claim": CLAIM_ID,
        "offeredAt": draw(optional),
        "startedAt": draw(optional),
        "firstHeartbeatAt": draw(optional),
        "attempts": draw(st.integers(0, 2)),
        "awaitingUserSince": draw(optional),
        "trace": {"traceparent": CONTEXT.traceparent(), "stages": stages},
    }
    resource = session({"work": {key: value for key, value in work.items() if value is not None}})
    assert resource.status.work.trace is not None
    calls = [
        RemoteCall(E2B, "create", draw(st.sampled_from([*STAGES, PREPARE])), min(pair), max(pair))
        for pair in draw(st.lists(st.tuples(times, times), max_size=4))
    ]
    run = draw(st.none() | runs())
    return Ended(resource, resource.status.work.trace, draw(times), run, tuple(calls))


@st.composite
def runs(draw: st.DrawFn) -> WorkerRun:
    run = WorkerRun(CLAIM_ID, "i")
    for number in range(draw(st.integers(0, 3))):
        began, ended = draw(times), draw(times)
        run.note_call(call_from(f"sevt_{number}", began, ended))
    record = {
        "claim": CLAIM_ID,
        "reason": "Idle",
        "startedAt": draw(st.none() | st.just("nonsense") | times.map(to_wire)),
        "firstHeartbeatAt": draw(st.none() | times.map(to_wire)),
        "finishedAt": draw(st.none() | times.map(to_wire)),
        "calls": [{"id": "sevt_9", "tool": "bash", "startedAt": to_wire(draw(times))}],
    }
    run.record = draw(st.none() | st.just(ExitRecord.model_validate(record)))
    return run


@given(ended_turns())
def test_a_trace_is_one_tree_whatever_is_missing_and_whatever_the_clocks_say(turn: Ended) -> None:
    spans = spans_of(turn)
    assert_one_tree(spans)
    assert spans_of(turn) == spans
    assert spans[0].name == TURN


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def created(*calls: RemoteCall) -> list[Span]:
    """The spans of a turn whose sandbox was created from second 1 to 3."""
    stage = {"name": CREATE, "startedAt": to_wire(at(1)), "endedAt": to_wire(at(3))}
    trace = {"traceparent": CONTEXT.traceparent(), "stages": [stage]}
    resource = session({"work": {"claim": CLAIM_ID, "attempts": 0, "trace": trace}})
    assert resource.status.work.trace is not None
    return spans_of(Ended(resource, resource.status.work.trace, at(9), None, calls))


def test_calls_are_spans_of_the_stage_for_which_they_were_made() -> None:
    spans = created(
        RemoteCall(E2B, "create", CREATE, at(1), at(1.5), "503"),
        RemoteCall(E2B, "create", CREATE, at(2), at(3)),
        RemoteCall(E2B, "create", CREATE, at(-5), at(-4)),
        RemoteCall(E2B, "create", CREATE, at(2), at(4)),
        RemoteCall(E2B, "pause", PAUSE, at(1), at(2)),
    )
    assert_one_tree(spans)
    _, stage, *calls = spans
    assert [(each.name, each.start, each.error, each.client) for each in calls] == [
        ("E2B create", at(1), "503", True),
        ("E2B create", at(2), None, True),
    ], "what is outside its stage belongs to a try that was given up"
    assert {each.parent_id for each in calls} == {stage.span_id}


async def test_a_call_is_noted_for_its_step_although_it_outlasts_it() -> None:
    noted: list[RemoteCall] = []
    answered = asyncio.Event()

    async def call() -> None:
        with remote_call(E2B, "create"):
            await answered.wait()
            raise OperationError(ErrorKind.TRANSIENT, Reason.SANDBOX_CREATE_FAILED, "secret", status=503)

    with noted_calls(CREATE, noted.append, lambda: NOW):
        task = asyncio.create_task(call())
        await asyncio.sleep(0)
    with remote_call(E2B, "list"):
        pass
    assert noted == []
    answered.set()
    with pytest.raises(OperationError):
        await task
    assert noted == [RemoteCall(E2B, "create", CREATE, NOW, NOW, "503")]


def turn_with_clock(shift: timedelta) -> list[Span]:
    """A turn whose sandbox has a wrong clock: a call lasts from second 4 to 6."""
    resource = session(
        {
            "work": {
                "claim": CLAIM_ID,
                "attempts": 1,
                "firstHeartbeatAt": to_wire(at(3)),
                "trace": {
                    "traceparent": CONTEXT.traceparent(),
                    "stages": [
                        {"name": START, "startedAt": to_wire(at(1)), "endedAt": to_wire(at(2))},
                        {"name": PAUSE, "startedAt": to_wire(at(8)), "endedAt": to_wire(at(9))},
                    ],
                },
            }
        }
    )
    assert resource.status.work.trace is not None
    run = WorkerRun(CLAIM_ID, "i")
    run.note_call(call_from("sevt_1", at(4) + shift, at(6) + shift))
    run.record = ExitRecord.model_validate(
        {
            "claim": CLAIM_ID,
            "reason": "Idle",
            "startedAt": to_wire(at(1.5) + shift),
            "firstHeartbeatAt": to_wire(at(2.5) + shift),
            "finishedAt": to_wire(at(7.5) + shift),
        }
    )
    return spans_of(Ended(resource, resource.status.work.trace, at(9), run))


@pytest.mark.parametrize("shift", [0.0, 0.2, 3600.0, -86400.0])
def test_calls_are_where_they_were_although_the_sandbox_clock_is_wrong(shift: float) -> None:
    (call,) = [span for span in turn_with_clock(timedelta(seconds=shift)) if "bash" in span.name]
    assert abs((call.start - NOW).total_seconds() - 4) <= 0.51
    assert call.end - call.start == timedelta(seconds=2)


@pytest.mark.parametrize(
    "document",
    [
        {"id": "sevt 1"},
        {"tool": "a secret, perhaps"},
        {"tool": "x" * 65},
        {"startedAt": "9999-12-31T23:59:59.999999-23:59"},
        {"startedAt": "0001-01-01T00:00:00+23:59"},
        {"endedAt": None},
        {"input": "echo secret"},
    ],
)
def test_a_report_with_free_text_or_impossible_times_is_no_report(document: dict[str, Any]) -> None:
    good = {"id": "sevt_1", "tool": "bash", "startedAt": to_wire(NOW), "endedAt": to_wire(NOW)}
    assert call_report(good) is not None
    assert call_report({**good, **document}) is None


def test_a_turn_is_sent_as_one_tree_when_it_ends(play: Play) -> None:
    play.starts()
    assert play.world.spans.traces == {}
    play.ends()
    trace = the_trace(play)
    expected = [CLAIM, CREATE, ACKNOWLEDGE, START, HEARTBEAT, WORKER, PAUSE]
    assert [name for name in names(trace) if name in expected] == expected
    assert PREPARE not in names(trace)
    assert trace[0].attributes["managed_sessions.claim"] == play.status.work.claim
    assert exemplar_of(play.world.resource) == {"trace_id": f"{next(iter(play.world.spans.traces)):032x}"}


def test_a_second_turn_is_a_second_trace(play: Play) -> None:
    play.turn()
    play.turn()
    first, second = play.world.spans.traces.values()
    assert (CREATE in names(first), RESUME in names(first)) == (True, False)
    assert (CREATE in names(second), RESUME in names(second)) == (False, True)
    assert first[0].end <= second[0].start


@pytest.mark.parametrize("when", ["before the heartbeat", "while it runs"])
def test_a_turn_of_two_leaders_is_one_tree_with_the_stages_of_both(play: Play, when: str) -> None:
    play.message(announced=False)
    play.world.time_passes(121)
    play.poll()
    play.settle()
    if when == "while it runs":
        play.world.beat()
        play.settle()
    play.take_over()
    play.world.beat()
    play.settle()
    play.ends()
    trace = the_trace(play)
    assert {CLAIM, CREATE, HEARTBEAT, WORKER, PAUSE} <= set(names(trace))


def test_the_next_leader_sends_a_turn_again_that_has_just_ended(play: Play) -> None:
    play.turn()
    before = the_trace(play)
    play.world.spans.traces.clear()
    play.take_over()
    traces = play.operator.context.traces
    assert traces is not None
    traces.took_over(play.world.resource)
    again = the_trace(play)
    assert [(span.name, span.span_id, span.start, span.end) for span in again] == [
        (span.name, span.span_id, span.start, span.end) for span in before
    ]
    play.world.spans.traces.clear()
    play.world.time_passes(60)
    traces.took_over(play.world.resource)
    assert play.world.spans.traces == {}


def test_the_trace_of_a_turn_ends_with_its_resource(play: Play) -> None:
    play.starts()
    play.world.delete()
    play.settle()
    assert play.world.released
    assert WORKER in names(the_trace(play))


def test_a_trace_costs_no_write(play: Play) -> None:
    play.turn()
    with_trace = play.turn()
    play.operator.context.traces = None
    play.operator.context.records._followers = ()
    assert play.turn() == with_trace


def waits_for_user(play: Play) -> None:
    play.world.await_user()
    play.settle()
    assert play.status.work.awaiting_user_since is not None


def goes_on(play: Play) -> None:
    play.world.answer()
    play.settle()
    assert play.status.work.awaiting_user_since is None


def test_each_wait_for_the_user_is_a_span_below_its_worker(play: Play) -> None:
    play.starts()
    for seconds in (5, 7):
        waits_for_user(play)
        play.world.time_passes(seconds)
        goes_on(play)
    play.ends()
    trace = the_trace(play)
    (worker,) = [span for span in trace if span.name == WORKER]
    waits = [span for span in trace if span.name == WAIT]
    assert [wait.end - wait.start >= timedelta(seconds=s) for wait, s in zip(waits, (5, 7), strict=True)]
    assert {wait.parent_id for wait in waits} == {worker.span_id}


def test_more_waits_than_a_resource_keeps_leave_the_first_and_the_newest(play: Play) -> None:
    play.starts()
    for _ in range(12):
        newest = play.world.now
        waits_for_user(play)
        play.world.time_passes(1)
        goes_on(play)
    play.ends()
    waits = [span for span in the_trace(play) if span.name == WAIT]
    assert len(waits) == 8
    assert max(wait.start for wait in waits) >= newest


def test_a_wait_that_never_ends_lasts_until_the_turn_does(play: Play) -> None:
    play.starts()
    waits_for_user(play)
    play.world.time_passes(5)
    play.world.delete()
    play.settle()
    (wait,) = [span for span in the_trace(play) if span.name == WAIT]
    assert wait.end - wait.start >= timedelta(seconds=5)


def test_what_is_not_sampled_is_not_sent(play: Play) -> None:
    play.world.spans.samples = False
    play.turn()
    assert play.world.spans.traces == {}
    trace = play.status.work.trace
    assert trace is not None
    assert (trace.traceparent[-2:], trace.stages) == ("00", [])


def test_a_worker_that_is_started_again_goes_on_with_the_trace(play: Play) -> None:
    play.message(announced=False)
    play.world.time_passes(121)
    play.poll()
    play.settle()
    claim = play.status.work.claim
    play.world.worker_ends("Killed")
    play.settle()
    play.world.time_passes(5)
    play.settle()
    assert play.status.work.claim != claim
    play.world.beat()
    play.settle()
    play.ends()
    assert names(the_trace(play)).count(WORKER) == 1
