"""Just enough of Anthropic's wire for one session: real HTTP, driven and inspected by a test."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

TIMEOUT_SECONDS = 30.0
Event = dict[str, Any]


class Wire:
    """One session `sesn_1` in environment `env_1`, whose agent is the test."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.events: list[Event] = []
        self.calls: list[tuple[str, str, str]] = []
        self.heartbeat_status = 200
        self.heartbeat_state = "active"
        self.session_status = "idle"
        self.unauthorized = False
        self.refuse_results_with: int | None = None
        self.unreadable_histories = 0
        self.lease_seconds = 300
        self.skills: list[Event] = []
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

    def say(self, text: str = "hello") -> None:
        self.emit("user.message", content=[{"type": "text", "text": text}])
        self.emit("session.status_running")

    def call(self, command: str) -> str:
        identifier = self.emit(
            "agent.tool_use", name="bash", input={"command": command}, evaluated_permission="allow"
        )
        self.emit("session.status_idle", stop_reason={"type": "requires_action", "event_ids": [identifier]})
        return identifier

    def end_turn(self) -> None:
        self.emit("session.status_idle", stop_reason={"type": "end_turn"})

    def run(self, command: str) -> tuple[str, bool]:
        """Have the agent call bash, and return the result's text and whether it is an error."""
        identifier = self.call(command)
        self.wait_for(lambda: self.result(identifier) is not None)
        result = self.result(identifier)
        assert result is not None
        return "".join(block["text"] for block in result["content"]), result["is_error"]

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


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A killed worker resets its connections; that is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    state: ClassVar[Wire]
    protocol_version = "HTTP/1.1"

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
            order = parse_qs(urlsplit(self.path).query).get("order", ["asc"])[0]
            data = list(self.state.events)
            self._answer(200, {"data": data[::-1] if order == "desc" else data, "next_page": None})
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
            self._answer(200, {"id": "sesn_1", "type": "work", "state": "stopped"})
        elif path == "/v1/sessions/sesn_1/events":
            self._results(body)
        else:
            self._answer(404, {"type": "error", "error": {"type": "not_found_error", "message": path}})

    def _note(self) -> str:
        path = urlsplit(self.path).path
        with self.state.changed:
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
            "resources": [],
        }

    def _heartbeat(self) -> None:
        state = self.state
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

    def _results(self, body: Event) -> None:
        if self.state.refuse_results_with:
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
        sent = len(state.events)
        while True:
            with state.changed:
                state.changed.wait(0.2)
                new = state.events[sent:]
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
