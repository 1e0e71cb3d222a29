"""Just enough of Anthropic's API for one session, over real HTTP, controlled by a test."""

import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from managed_session_devkit.simulators.common.silent_connections import silence

from .memory_wire import MEMORIES, WireStores

TIMEOUT_SECONDS = 60.0
Event = dict[str, Any]


class Wire:
    """One session `sesn_1` in environment `env_1`. The test plays the agent."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.events: list[Event] = []
        self.calls: list[tuple[str, str, str]] = []
        self.traceparents: set[str | None] = set()
        self.heartbeat_status = 200
        self.heartbeat_state = "active"
        self.session_status = "idle"
        self.unauthorized = False
        self.refuse_results_with: int | None = None
        self.refusals: int | None = None
        """How many results are refused. None: all."""
        self.severed = 0
        self.unreadable_histories = 0
        self.page_size = 1000
        self.lease_seconds = 300
        self.skills: list[Event] = []
        self.stores = WireStores()
        self.streams = self.forgotten_streams = 0
        self._connections: set[socket.socket] = set()
        self.before_stop: Callable[[], object] = lambda: None
        self.after_stop: str | None = None
        """The item's state after a stop. None: as if it was still held."""
        self.unauthorized_after_stop = False
        self.late_calls: list[str] = []
        self.stopped = False
        self.lose_beats: set[int] = set()
        """Numbers of the heartbeats, from 0, that take effect and whose answers are lost."""
        self.failed_beats: set[int] = set()
        """Numbers of the heartbeats that take effect and are answered with an error."""
        self.stored_beat: str | None = None
        """The last heartbeat of the item's holder, with which heartbeats are compared."""
        self.compare_beats = False
        self._number = 0
        wire = self

        class Handler(_Handler):
            state = wire

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def emit(self, kind: str, **fields: Any) -> str:
        with self.changed:
            self._number += 1
            identifier = f"sevt_{self._number}"
            self.events.append(
                {"id": identifier, "type": kind, "processed_at": "2026-01-01T00:00:00Z", **fields}
            )
            self.changed.notify_all()
            return identifier

    def cut_silently(self) -> int:
        """Silence all connections. Return how many there were."""
        with self.changed:
            return sum(silence(connection) for connection in self._connections if connection.fileno() != -1)

    def forget_streams(self) -> None:
        """Send nothing more on the open streams, and keep their connections."""
        self.forgotten_streams = self.streams

    def connected(self, connection: socket.socket) -> None:
        with self.changed:
            self._connections = {each for each in self._connections if each.fileno() != -1} | {connection}

    def say(self, text: str = "hello") -> None:
        self.emit("user.message", content=[{"type": "text", "text": text}])
        self.emit("session.status_running")

    def call(self, command: str, **inputs: Any) -> str:
        identifier = self.emit(
            "agent.tool_use",
            name="bash",
            input={"command": command, **inputs},
            evaluated_permission="allow",
        )
        self.emit("session.status_idle", stop_reason={"type": "requires_action", "event_ids": [identifier]})
        return identifier

    def call_of_thread(self, command: str, *, name: str = "sthr_1", waits: bool = True) -> str:
        """Have a sub-agent's thread request a tool call. The session as a whole continues."""
        thread = {"agent_name": "helper", "session_thread_id": name}
        identifier = self.emit(
            "agent.tool_use",
            name="bash",
            input={"command": command},
            evaluated_permission="allow",
            session_thread_id=name,
        )
        if waits:
            stop = {"type": "requires_action", "event_ids": [identifier]}
            self.emit("session.thread_status_idle", stop_reason=stop, **thread)
        return identifier

    def sever_streams(self) -> None:
        """Cut every open event stream."""
        with self.changed:
            self.severed += 1
            self.changed.notify_all()

    def end_turn(self) -> None:
        self.emit("session.status_idle", stop_reason={"type": "end_turn"})

    def run(self, command: str, **inputs: Any) -> tuple[str, bool]:
        """Have the agent call bash, and return the result's text and whether it is an error."""
        identifier = self.call(command, **inputs)
        self.wait_for(lambda: self.result(identifier) is not None)
        result = self.result(identifier)
        assert result is not None
        return "".join(block["text"] for block in result["content"]), result["is_error"]

    def answer(self, identifier: str) -> str:
        """Wait for the result of a call, and return its text."""
        self.wait_for(lambda: self.result(identifier) is not None)
        result = self.result(identifier)
        assert result is not None
        return "".join(block["text"] for block in result["content"])

    def result(self, identifier: str) -> Event | None:
        found = [e for e in self.events if e["type"] == "user.tool_result" and e["tool_use_id"] == identifier]
        return found[0] if found else None

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        with self.changed:
            while not condition():
                remaining = deadline - time.monotonic()
                assert remaining > 0, f"never happened; calls: {self.calls[-10:]}"
                self.changed.wait(remaining)

    def count(self, method: str, ending: str) -> int:
        return sum(1 for m, path, _ in self.calls if m == method and path.endswith(ending))


def _precondition_failed(stored: str | None) -> Event:
    lease = {"last_heartbeat": stored, "lease_extended": False, "state": "active", "ttl_seconds": 300}
    details = {"error_code": "heartbeat_precondition_failed", "current_state": lease}
    error = {"type": "invalid_request_error", "message": "precondition", "details": details}
    return {"type": "error", "error": error}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing, because a killed worker resets its connections."""


class _Handler(BaseHTTPRequestHandler):
    state: ClassVar[Wire]
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.state.connected(self.connection)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        path = self._note()
        if self._unauthorized():
            return
        if path == "/v1/sessions/sesn_1":
            self._answer(200, self._session())
        elif path == "/v1/sessions/sesn_1/events" and self.state.unreadable_histories:
            self.state.unreadable_histories -= 1
            self._answer(503, {"type": "error", "error": {"type": "api_error", "message": "not now"}})
        elif path == "/v1/sessions/sesn_1/events":
            query = parse_qs(urlsplit(self.path).query)
            order, start = query.get("order", ["asc"])[0], int(query.get("page", ["0"])[0])
            data = list(self.state.events)
            end = start + self.state.page_size
            page = (data[::-1] if order == "desc" else data)[start:end]
            self._answer(200, {"data": page, "next_page": str(end) if end < len(data) else None})
        elif path.startswith(MEMORIES):
            self._answer(*self.state.stores.read(path))
        elif path == "/v1/sessions/sesn_1/events/stream":
            self._stream()
        else:
            self._answer(404, {"type": "error", "error": {"type": "not_found_error", "message": path}})

    def do_POST(self) -> None:
        path = self._note()
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        if self._unauthorized():
            return
        if path.endswith("/heartbeat"):
            self._heartbeat()
        elif path.endswith("/stop"):
            self.state.before_stop()
            self.state.unauthorized = self.state.unauthorized or self.state.unauthorized_after_stop
            self.state.stopped = True
            self._answer(200, {"id": "sesn_1", "type": "work", "state": "stopped"})
        elif path == "/v1/sessions/sesn_1/events":
            self._results(body)
        elif path.startswith(MEMORIES):
            self._answer(*self.state.stores.write(path, body))
        else:
            self._answer(404, {"type": "error", "error": {"type": "not_found_error", "message": path}})

    def _note(self) -> str:
        path = urlsplit(self.path).path
        with self.state.changed:
            self.state.traceparents.add(self.headers.get("traceparent"))
            self.state.calls.append((self.command, path, self.headers.get("authorization") or ""))
            self.state.changed.notify_all()
        return path

    def _unauthorized(self) -> bool:
        if self.state.unauthorized:
            self._answer(401, {"type": "error", "error": {"type": "authentication_error", "message": "no"}})
        return self.state.unauthorized

    def _session(self) -> Event:
        return {
            "id": "sesn_1",
            "type": "session",
            "status": self.state.session_status,
            "environment_id": "env_1",
            "agent": {"id": "agent_1", "type": "agent", "skills": self.state.skills},
            "resources": self.state.stores.resources,
        }

    def _heartbeat(self) -> None:
        state = self.state
        if state.stopped and state.after_stop is not None:
            self._beat_after_stop(state.after_stop)
            return
        if state.compare_beats:
            self._compared_beat()
            return
        if state.heartbeat_status != 200:
            self._answer(
                state.heartbeat_status,
                {"type": "error", "error": {"type": "invalid_request_error", "message": "precondition"}},
            )
            return
        self._answer(
            200,
            {
                "type": "work_heartbeat",
                "last_heartbeat": str(time.time()),
                "lease_extended": True,
                "state": state.heartbeat_state,
                "ttl_seconds": state.lease_seconds,
            },
        )

    def _compared_beat(self) -> None:
        """Accept a heartbeat as the server does: only if it names the stored one."""
        state = self.state
        number = state.count("POST", "/heartbeat") - 1
        expected = parse_qs(urlsplit(self.path).query)["expected_last_heartbeat"][0]
        if expected != (state.stored_beat or "NO_HEARTBEAT"):
            self._answer(412, _precondition_failed(state.stored_beat))
            return
        state.stored_beat = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        if number in state.failed_beats:
            self._answer(503, {"type": "error", "error": {"type": "api_error", "message": "not now"}})
            return
        if number in state.lose_beats:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._answer(
            200,
            {
                "type": "work_heartbeat",
                "last_heartbeat": state.stored_beat,
                "lease_extended": True,
                "state": "active",
                "ttl_seconds": state.lease_seconds,
            },
        )

    def _beat_after_stop(self, item: str) -> None:
        lease = {"last_heartbeat": "", "lease_extended": False, "state": item, "ttl_seconds": 300}
        if item == "stopped":
            self._answer(200, {"type": "work_heartbeat", **lease})
            return
        details = {"error_code": "heartbeat_precondition_failed", "current_state": lease}
        error = {"type": "invalid_request_error", "message": "precondition", "details": details}
        self._answer(412, {"type": "error", "error": error})

    def _results(self, body: Event) -> None:
        if self.state.refuse_results_with and self.state.refusals != 0:
            if self.state.refusals is not None:
                self.state.refusals -= 1
            error = {"type": "invalid_request_error", "message": "refused"}
            self._answer(self.state.refuse_results_with, {"type": "error", "error": error})
            return
        for event in body["events"]:
            fields = {name: value for name, value in event.items() if name != "type"}
            self.state.emit(event["type"], **fields)
        self._answer(200, {"data": []})

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        state = self.state
        sent, severed = len(state.events), state.severed
        state.streams += 1
        number = state.streams
        while True:
            with state.changed:
                state.changed.wait(0.2)
                new = state.events[sent:]
                if state.severed != severed:
                    return
            if number <= state.forgotten_streams:
                continue
            try:
                for event in new:
                    self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
                self.wfile.write(b"" if new else b"event: ping\ndata: {}\n\n")
                self.wfile.flush()
            except OSError:
                return
            sent += len(new)

    def _answer(self, status: int, document: Event) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
