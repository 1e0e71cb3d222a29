"""Reading the events of a sandbox's supervisor."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_operator.clients.e2b.worker_streams import _Lines, refusal_codes
from managed_session_operator.domain.worker_run import ExitRecord, Refusal, WorkerRun
from managed_session_worker.protocol import RefusalCode

from .examples import CLAIM, record


def test_an_exit_record_is_read_and_fields_of_a_newer_supervisor_are_ignored() -> None:
    known = ExitRecord.model_validate(
        {
            "claim": CLAIM,
            "reason": "Idle",
            "message": None,
            "toolCalls": 4,
            "toolErrors": 1,
            "resultsRefused": 2,
            "firstHeartbeatAt": None,
            "unsynchronised": ["a"],
            "later": {"more": 1},
        }
    )
    assert (known.tool_calls, known.tool_errors, known.results_refused) == (4, 1, 2)


@pytest.mark.parametrize(
    ("run", "live"),
    [
        (WorkerRun(CLAIM, "i"), True),
        (WorkerRun(CLAIM, "i", accepted=True, heartbeat=True), True),
        (WorkerRun(CLAIM, "i", cut="reset"), False),
        (WorkerRun(CLAIM, "i", refused=Refusal(None, "no")), False),
        (WorkerRun(CLAIM, "i", record=record()), False),
    ],
)
def test_a_run_is_live_while_its_end_would_be_reported(run: WorkerRun, live: bool) -> None:
    assert run.live is live


events = st.lists(
    st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.none(), min_size=1), max_size=6
)


@given(events, st.lists(st.integers(1, 9), max_size=60))
def test_events_arrive_whole_however_the_stream_is_cut_into_chunks(
    sent: list[dict[str, Any]], sizes: list[int]
) -> None:
    heard: list[dict[str, Any]] = []
    lines, text = _Lines(heard.append), "".join(json.dumps(event) + "\n" for event in sent)
    while text:
        size = sizes.pop() if sizes else len(text)
        lines.feed(text[:size])
        text = text[size:]
    assert heard == sent


def test_lines_that_are_no_events_are_skipped() -> None:
    heard: list[dict[str, Any]] = []
    lines = _Lines(heard.append)
    lines.feed('Traceback (most recent call last):\n\n{"half": \n{"event": "accepted"}\n')
    assert heard == [{"event": "accepted"}]


def test_an_endless_line_uses_no_memory_and_is_skipped() -> None:
    heard: list[dict[str, Any]] = []
    lines = _Lines(heard.append)
    tracemalloc.start()
    for _ in range(200):
        lines.feed("[" * 100_000)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000
    lines.feed('\n{"event": "accepted"}\n')
    assert heard == [{"event": "accepted"}]


def test_a_line_of_only_brackets_is_skipped() -> None:
    heard: list[dict[str, Any]] = []
    _Lines(heard.append).feed("[" * 60_000 + '\n{"event": "accepted"}\n')
    assert heard == [{"event": "accepted"}]


def test_an_unusable_event_does_not_end_the_stream() -> None:
    heard: list[Any] = []

    def take(event: dict[str, Any]) -> None:
        if event["event"] == "exited":
            ExitRecord.model_validate(event["record"])
        heard.append(event["event"])

    lines = _Lines(take)
    lines.feed('{"event": "exited"}\n{"event": "exited", "record": {"claim": 1}}\n{"event": "accepted"}\n')
    assert heard == ["accepted"]


@pytest.mark.parametrize(
    ("event", "code", "message"),
    [
        (
            {"code": "Busy", "reason": "Busy", "message": "a call runs"},
            RefusalCode.BUSY,
            "The supervisor refused: Busy: a call runs",
        ),
        # A sandbox of an earlier version.
        (
            {"reason": "UnknownClaim", "message": "never started"},
            RefusalCode.UNKNOWN_CLAIM,
            "The supervisor refused: UnknownClaim: never started",
        ),
        ({"code": "Later", "message": "Busy"}, None, "The supervisor refused: Busy"),
    ],
)
def test_a_refusal_is_recognized_by_its_code_and_never_by_its_text(
    event: dict[str, Any], code: RefusalCode | None, message: str
) -> None:
    assert Refusal.of(event) == Refusal(code, message)


def test_the_refusal_of_a_command_is_found_in_its_output() -> None:
    written = 'no event\n[]\n{"event": "refused", "code": "UnknownClaim", "message": "StaleEpoch"}\n'
    assert refusal_codes(written) == {RefusalCode.UNKNOWN_CLAIM}
    assert refusal_codes('{"event": "exited", "claim": "UnknownClaim"}\n') == set()
