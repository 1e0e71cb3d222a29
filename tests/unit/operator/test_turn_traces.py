"""The trace of a turn: its tree, its IDs, and what leads to it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.times import to_wire
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
        for name in draw(st.lists(st.sampled_from([WEBHOOK, CLAIM, CREATE, START, PAUSE]), unique=True))
        for pair in [(draw(times), draw(times))]
    ]
    optional = st.none() | times.map(to_wire)
    work = {
        "claim": CLAIM_ID,
        "offeredAt": draw(optional),
        "startedAt": draw(optional),
        "firstHeartbeatAt": draw(optional),
        "attempts": draw(st.integers(0, 2)),
        "trace": {"traceparent": CONTEXT.traceparent(), "stages": stages},
    }
    resource = session({"work": {key: value for key, value in work.items() if value is not None}})
    assert resource.status.work.trace is not None
    return Ended(resource, resource.status.work.trace, draw(times), draw(st.none() | runs()))


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


def turn_with_clock(shift: timedelta) -> list[Span]:
    """A turn whose sandbox has a wrong clock: a call lasts from second 4 to 6."""
    began = NOW

    def at(seconds: float) -> datetime:
        return began + timedelta(seconds=seconds)

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
