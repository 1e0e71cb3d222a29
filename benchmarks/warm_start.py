"""A warm start of a worker against a cold one: from the request to the first heartbeat.

Warm: a supervisor that has imported the SDK, as in each sandbox, receives a start request on its socket.
Cold: `python` starts and runs the same worker for the same request. Both run as processes of this user, and
talk to a small server that answers as Anthropic does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import managed_session_worker
from managed_session_worker.paths import ROOT_VARIABLE, Paths

from benchmarks.figures import Figure

GOAL = 0.1
TIMES = 15
SECRET = base64.urlsafe_b64encode(b'{"sessions_token": "token"}').decode()
COLD = """
import json, os, socket, sys
from pathlib import Path
from managed_session_worker.paths import Paths
from managed_session_worker.privileges import Account
from managed_session_worker.protocol import StartRequest
from managed_session_worker.worker import run_worker

shells, _ = socket.socketpair()
run_worker(
    StartRequest.parse(json.loads(sys.argv[1])), paths=Paths.from_environment(),
    account=Account.find(""), report_to=1, shells=shells.fileno(), log_to=2, supervisor=os.getppid(),
)
"""


class Anthropic(ThreadingHTTPServer):
    """One idle session, whose worker's heartbeats are counted."""

    daemon_threads = True

    def __init__(self) -> None:
        self.beaten = threading.Condition()
        self.beats = 0
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Print nothing: killed workers reset their connections."""

    def seconds_to_beat(self, began: float) -> float:
        """Wait for the next heartbeat and return the seconds since `began`."""
        with self.beaten:
            if not self.beaten.wait_for(lambda: self.beats > 0, 60):
                raise TimeoutError("no heartbeat")
            self.beats = 0
        return time.perf_counter() - began


class Handler(BaseHTTPRequestHandler):
    """Answers the calls of a worker whose session is idle."""

    protocol_version = "HTTP/1.1"
    server: Anthropic

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Answer with the session, without events, or with a silent stream."""
        if self.path.endswith("/stream"):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.close_connection = True
            time.sleep(60)
            return
        session = {"id": "sesn_1", "type": "session", "status": "idle", "environment_id": "env_1",
                   "agent": {"id": "agent_1", "type": "agent", "skills": []}, "resources": []}  # fmt: skip
        self._answer({"data": [], "next_page": None} if "/events" in self.path else session)

    def do_POST(self) -> None:
        """Accept a heartbeat."""
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self._answer({"type": "work_heartbeat", "last_heartbeat": "1", "lease_extended": True,
                      "state": "active", "ttl_seconds": 300})  # fmt: skip
        if "/heartbeat" in self.path:
            with self.server.beaten:
                self.server.beats += 1
                self.server.beaten.notify_all()

    def _answer(self, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def request(number: int, url: str) -> dict[str, Any]:
    """Return a start request."""
    return {"command": "start", "epoch": 1, "claim": f"claim-{number:04d}", "sessionID": "sesn_1",
            "workID": "sesn_1", "environmentID": "env_1", "workSecret": SECRET, "baseURL": url}  # fmt: skip


def warm(server: Anthropic, paths: Paths, number: int) -> float:
    """Send a start request to the supervisor."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(paths.socket)
        began = time.perf_counter()
        connection.sendall(json.dumps(request(number, server.url)).encode() + b"\n")
        return server.seconds_to_beat(began)


def cold(server: Anthropic, environment: dict[str, str], number: int) -> float:
    """Start `python` with the worker."""
    began = time.perf_counter()
    command = [sys.executable, "-c", COLD, json.dumps(request(number, server.url))]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            return server.seconds_to_beat(began)
        finally:
            process.kill()


def start(times: int) -> tuple[list[float], list[float]]:
    """Return the seconds of warm and cold starts, taken in turns."""
    server = Anthropic()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        paths, environment = Paths(folder), {**os.environ, ROOT_VARIABLE: folder}
        program = Path(managed_session_worker.__file__).with_name("supervisor.py")
        with subprocess.Popen(
            [sys.executable, str(program), "--account="], env=environment, stderr=subprocess.DEVNULL
        ) as supervisor:
            try:
                while not Path(paths.socket).exists():
                    time.sleep(0.01)
                pairs = [
                    (warm(server, paths, number), cold(server, environment, number))
                    for number in range(times + 1)
                ]
            finally:
                supervisor.terminate()
    # The first pair warms the disk's cache.
    return [each for each, _ in pairs[1:]], [each for _, each in pairs[1:]]


async def measure() -> list[Figure]:
    """Measure some starts of each kind."""
    warm_starts, cold_starts = await asyncio.to_thread(start, TIMES)
    return [
        Figure(
            key="warm", name="warm start, median", value=statistics.median(warm_starts) * 1000, unit="ms",
            limit=statistics.median(cold_starts) * 1000, limit_is="a cold start", goal=GOAL,
        ),
        Figure(key="warm-max", name="warm start, longest", value=max(warm_starts) * 1000, unit="ms"),
    ]  # fmt: skip
