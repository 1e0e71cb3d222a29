"""Whether the standard variables turn traces on, and what the exporter sends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest
from managed_session_devkit.system.trace_receiver import TraceReceiver, trace_receiver
from managed_session_operator.clients.opentelemetry.configuration import traces_on
from managed_session_operator.clients.opentelemetry.span_exporter import SpanExporter
from managed_session_operator.domain.span import Span

from .examples import NOW

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
TRACE = 2**127 + 2**63 + 5
SPANS = [
    Span("turn", 1, None, NOW, NOW + timedelta(seconds=3), {"managed_sessions.turn": 1}, "Killed"),
    Span("worker", 2, 1, NOW + timedelta(microseconds=1), NOW + timedelta(seconds=2)),
]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceReceiver]:
    with trace_receiver() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "false"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "zipkin"}, False),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
        (
            {
                **ENDPOINT,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            True,
        ),
    ],
)
def test_traces_are_on_if_the_standard_variables_say_so(environ: dict[str, str], on: bool) -> None:
    assert traces_on(environ) is on


def test_an_unsupported_value_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    traces_on({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert "the OTLP protocol must be http/protobuf" in caplog.text


def test_nothing_of_the_sdk_is_imported_while_traces_are_off() -> None:
    program = (
        "import sys, managed_session_operator.main as main; assert main._span_exporter() is None; "
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


async def test_spans_arrive_with_the_given_ids_times_and_parents(receiver: TraceReceiver) -> None:
    exporter = SpanExporter()
    assert exporter.sampled(TRACE)
    exporter.send(TRACE, SPANS)
    await exporter.close()
    root, worker = receiver.spans
    assert (root.trace_id, root.span_id, root.parent_id) == (f"{TRACE:032x}", f"{1:016x}", "")
    assert (worker.trace_id, worker.span_id, worker.parent_id) == (f"{TRACE:032x}", f"{2:016x}", f"{1:016x}")
    assert root.end - root.start == 3_000_000_000
    assert worker.start - root.start == 1000
    assert (root.failed, worker.failed) == (True, False)
    assert root.attributes == {"managed_sessions.turn": 1, "error.type": "Killed"}
    assert root.service["service.name"] == "managed-session-operator"


async def test_the_service_can_have_another_name(
    receiver: TraceReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "agents")
    exporter = SpanExporter()
    exporter.send(TRACE, SPANS)
    await exporter.close()
    assert {span.service["service.name"] for span in receiver.spans} == {"agents"}


async def test_the_configured_sampler_decides_by_trace(
    receiver: TraceReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    exporter = SpanExporter()
    decisions = {trace: exporter.sampled(trace) for trace in (2**64 - 1, 2**62)}
    assert decisions == {2**64 - 1: False, 2**62: True}
    for trace in decisions:
        exporter.send(trace, SPANS)
    await exporter.close()
    assert set(receiver.traces()) == {f"{2**62:032x}"}


async def test_a_collector_that_is_away_costs_spans_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    exporter = SpanExporter()
    for _ in range(50):
        exporter.send(TRACE, SPANS)
    await exporter.close()
