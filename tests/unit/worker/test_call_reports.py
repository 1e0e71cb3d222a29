"""What a worker reports of its tool calls, and the trace context that Anthropic gets."""

from __future__ import annotations

import hashlib
import json

import pytest
from managed_session_worker.call_reports import digest_of
from managed_session_worker.protocol import MOST_CALL_REPORTS

from .worker_sandbox import FIRST, Event, Sandbox, Supervisorctl
from .worker_wire import Wire

TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"
COMMAND = "echo canary-of-content; false"


def reports(client: Supervisorctl) -> list[Event]:
    return [event["call"] for event in client.events if event["event"] == "call"]


def test_each_call_is_reported_with_its_times_and_a_digest_but_no_content(
    sandbox: Sandbox, wire: Wire
) -> None:
    client = sandbox.start(reportCalls=True)
    wire.say()
    wire.run("true")
    wire.run(COMMAND)
    wire.end_turn()
    record = client.record()
    first, second = reports(client)
    assert (first["tool"], first["isError"], second["isError"]) == ("bash", False, True)
    assert record["startedAt"] <= first["startedAt"] <= first["endedAt"] <= second["startedAt"]
    assert second["endedAt"] <= record["finishedAt"]
    expected = hashlib.sha256(json.dumps({"command": COMMAND}, separators=(",", ":")).encode()).hexdigest()
    assert second["input"] == f"sha256:{expected}"
    assert "canary-of-content" not in json.dumps(client.events)


def test_an_operator_that_comes_later_gets_the_newest_reports_again(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(reportCalls=True)
    wire.say()
    wire.run("true")
    client.event("call")
    later = sandbox.supervisorctl("watch", FIRST)
    later.event("call")
    wire.run("false")
    wire.end_turn()
    client.record()
    later.record()
    assert reports(later) == reports(client)
    afterwards = sandbox.supervisorctl("watch", FIRST)
    afterwards.record()
    assert reports(afterwards) == reports(client)
    assert len(reports(client)) == 2 < MOST_CALL_REPORTS


def test_without_being_asked_a_worker_reports_no_call_and_sends_no_trace_context(
    sandbox: Sandbox, wire: Wire
) -> None:
    client = sandbox.start()
    wire.say()
    wire.run("true")
    wire.end_turn()
    client.record()
    assert reports(client) == []
    assert wire.traceparents == {None}


@pytest.mark.parametrize(
    ("given", "sent"),
    [(TRACEPARENT, TRACEPARENT), ("00-zz-1-01", None), (f"{TRACEPARENT}\r\nx: y", None), (7, None)],
)
def test_anthropic_gets_the_trace_context_if_it_is_one(
    sandbox: Sandbox, wire: Wire, given: object, sent: str | None
) -> None:
    client = sandbox.start(traceparent=given)
    client.event("heartbeat")
    wire.say()
    wire.run("true")
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    assert wire.traceparents == {sent}


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": "ä"}) == digest_of({"b": "ä", "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": "1"})
    assert digest_of("\ud800").startswith("sha256:")
