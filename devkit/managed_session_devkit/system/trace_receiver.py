"""Receives traces by OTLP over HTTP, as a collector does, and shows what has arrived."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

_PATH = "/v1/traces"
_TYPE = "application/x-protobuf"


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it arrived. IDs are hexadecimal, times nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    """Empty for a root."""
    name: str
    start: int
    end: int
    failed: bool
    client: bool
    """Whether it is a call to another service."""
    attributes: dict[str, Any]
    service: dict[str, Any]
    """Attributes of the resource that sent it."""


class TraceReceiver:
    """What a receiver has got so far. Its threads add to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        """What OTEL_EXPORTER_OTLP_ENDPOINT has to be."""
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        """What to answer from now on."""

    @property
    def spans(self) -> list[ReceivedSpan]:
        """The spans, in the order of their arrival."""
        return [span for body in list(self.bodies) for span in _spans(body)]

    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """The spans by trace, each once: a span that is sent again has the same ID."""
        traces: dict[str, dict[str, ReceivedSpan]] = {}
        for span in self.spans:
            traces.setdefault(span.trace_id, {})[span.span_id] = span
        return {trace: list(spans.values()) for trace, spans in traces.items()}


@contextmanager
def trace_receiver() -> Iterator[TraceReceiver]:
    """Receive traces on a free port of this machine while the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    receiver = _Handler.receiver_of[server.server_port] = TraceReceiver(
        f"http://127.0.0.1:{server.server_port}"
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        del _Handler.receiver_of[server.server_port]


class _Handler(BaseHTTPRequestHandler):
    receiver_of: dict[int, TraceReceiver] = {}  # noqa: RUF012 - shared by the servers of this process

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        receiver = self.receiver_of[self.server.server_address[1]]  # type: ignore[index]
        status = receiver.status
        try:
            if self.path != _PATH or self.headers.get("Content-Type") != _TYPE:
                status = 404
            else:
                _spans(body)
        except DecodeError:
            status = 400
        if status == 200:
            receiver.headers.append(dict(self.headers))
            receiver.bodies.append(body)
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(status)
        self.send_header("Content-Type", _TYPE)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _spans(body: bytes) -> list[ReceivedSpan]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        ReceivedSpan(
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.name,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.status.code == 2,
            span.kind == 3,
            _attributes(span.attributes),
            _attributes(resource.resource.attributes),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
