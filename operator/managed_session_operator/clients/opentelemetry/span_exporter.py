"""Makes OpenTelemetry spans of a finished trace, and exports them in a thread of the SDK's.

The SDK reads the standard variables: endpoint, headers, certificates, time limits, sampler, the batches' size
and delay, limits of attributes, and resource attributes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from managed_session_operator.domain.span import Span
from managed_session_operator.domain.turn_trace import TURN

logger = logging.getLogger(__name__)

SERVICE = "managed-session-operator"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FLUSH_SECONDS = 3.0
"""How long a process that stops tries to send its last spans."""


class _GivenIds(IdGenerator):
    """Returns the IDs that were set before a span was started. One event loop does both."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_trace_id(self) -> int:
        """Return the given ID."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """Return the given ID."""
        return self.span_id

    def is_trace_id_random(self) -> bool:
        """Say that the IDs are evenly distributed, as those of a digest are."""
        return True


class SpanExporter:
    """Exports spans in the background. A collector that does not answer costs spans, and nothing else."""

    def __init__(self) -> None:
        self._ids = _GivenIds()
        self._provider = TracerProvider(id_generator=self._ids, resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("managed_session_operator", _version())

    def sampled(self, trace_id: int) -> bool:
        """Return what the configured sampler says about the trace."""
        result = self._provider.sampler.should_sample(None, trace_id, TURN, SpanKind.INTERNAL)
        return result.decision is Decision.RECORD_AND_SAMPLE

    def send(self, trace_id: int, spans: Sequence[Span]) -> None:
        """Hand the spans over to the thread that exports them. If its queue is full, spans are dropped."""
        self._ids.trace_id = trace_id
        for each in spans:
            self._ids.span_id = each.span_id
            span = self._tracer.start_span(
                each.name,
                _parent(trace_id, each.parent_id),
                SpanKind.CLIENT if each.client else SpanKind.INTERNAL,
                attributes=each.attributes,
                start_time=_nanoseconds(each.start),
            )
            if not span.is_recording():
                return
            if each.error is not None:
                span.set_attribute("error.type", each.error)
                span.set_status(Status(StatusCode.ERROR))
            span.end(_nanoseconds(each.end))

    async def close(self) -> None:
        """Send what is left, within a few seconds."""
        try:
            async with asyncio.timeout(_FLUSH_SECONDS + 1):
                await asyncio.to_thread(self._provider.force_flush, round(_FLUSH_SECONDS * 1000))
        except TimeoutError:
            logger.warning("the last spans were not sent in time")


def _parent(trace_id: int, parent_id: int | None) -> Context:
    if parent_id is None:
        return Context()
    parent = SpanContext(trace_id, parent_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _nanoseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


def _resource() -> Resource:
    """Return who sends the spans. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence."""
    given = OTELResourceDetector().detect().attributes
    ours = {
        "service.name": SERVICE,
        "service.version": _version(),
        "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
    }
    return Resource.create({key: value for key, value in ours.items() if key not in given})


def _version() -> str:
    try:
        return version("managed-sessions")
    except PackageNotFoundError:
        return "unknown"
