"""What the sandbox's supervisor is told and what it tells."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_operator.clients.worker_runs import ExitRecord, StartRequest, WorkerRun, _Lines
from pydantic import SecretStr

from .examples import CLAIM, record


def _request(**changed: Any) -> StartRequest:
    known: dict[str, Any] = {
        "epoch": 3,
        "claim": CLAIM,
        "session_id": "sesn_1",
        "work_id": "work_1",
        "environment_id": "env_1",
        "work_secret": SecretStr("token-of-the-session"),
        "environment_key": None,
        "base_url": "https://api.example",
        "max_idle_seconds": 10,
        "attach_timeout_seconds": 60,
        "log_level": "INFO",
    }
    return StartRequest(**{**known, **changed})


def test_a_start_has_the_fields_that_the_supervisor_reads() -> None:
    assert json.loads(_request().to_line()) == {
        "command": "start",
        "epoch": 3,
        "claim": CLAIM,
        "sessionID": "sesn_1",
        "workID": "work_1",
        "environmentID": "env_1",
        "workSecret": "token-of-the-session",
        "environmentKey": None,
        "baseURL": "https://api.example",
        "maxIdleSeconds": 10,
        "attachTimeoutSeconds": 60,
        "logLevel": "INFO",
    }


def test_a_start_is_one_line_whatever_it_holds() -> None:
    assert "\n" not in _request(session_id="a\nb").to_line()


def test_a_start_does_not_show_its_secrets() -> None:
    shown = repr(_request(environment_key=SecretStr("key-of-the-environment")))
    assert "token-of-the-session" not in shown
    assert "key-of-the-environment" not in shown


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
        (WorkerRun(CLAIM, "i", refused="no"), False),
        (WorkerRun(CLAIM, "i", record=record()), False),
    ],
)
def test_a_run_is_live_while_its_end_would_be_told(run: WorkerRun, live: bool) -> None:
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


def test_what_is_no_event_is_passed_over_and_the_next_one_heard() -> None:
    heard: list[dict[str, Any]] = []
    lines = _Lines(heard.append)
    lines.feed('Traceback (most recent call last):\n\n{"half": \n{"event": "accepted"}\n')
    assert heard == [{"event": "accepted"}]


def test_a_line_without_an_end_takes_no_room_and_the_next_one_is_heard() -> None:
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


def test_a_line_of_nothing_but_brackets_is_passed_over() -> None:
    heard: list[dict[str, Any]] = []
    _Lines(heard.append).feed("[" * 60_000 + '\n{"event": "accepted"}\n')
    assert heard == [{"event": "accepted"}]


def test_an_event_that_nobody_can_take_does_not_end_the_stream() -> None:
    heard: list[Any] = []

    def take(event: dict[str, Any]) -> None:
        if event["event"] == "exited":
            ExitRecord.model_validate(event["record"])
        heard.append(event["event"])

    lines = _Lines(take)
    lines.feed('{"event": "exited"}\n{"event": "exited", "record": {"claim": 1}}\n{"event": "accepted"}\n')
    assert heard == ["accepted"]
