"""A webhook process and its cluster, as tests see them from outside."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane
from standardwebhooks import Webhook

SIGNING_KEY = "whsec_" + base64.b64encode(b"webhook-signing-key-of-32-bytes!").decode()
SESSION = "sesn_01AbCdEf"
NAME = names.resource_name(SESSION)
RUN = "session.status_run_started"
T0 = datetime(2026, 3, 18, 14, 5, 22, tzinfo=UTC)
DEADLINE_SECONDS = 60.0


class WebhookProcess:
    """A running `managed-session-webhook`, seen from outside."""

    def __init__(self, process: asyncio.subprocess.Process, credentials: Path) -> None:
        self.process = process
        self.credentials = credentials
        self.lines: list[dict[str, Any]] = []
        self.text = ""
        self.port = self.probe_port = 0

    async def follow(self, listening: asyncio.Event) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.text += line.decode()
            if line.startswith(b"{"):
                record = json.loads(line)
                self.lines.append(record)
                if record["message"] == "listening":
                    self.port, self.probe_port = record["port"], record["probePort"]
                    listening.set()
        listening.set()

    def logged(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"].startswith(message)]

    async def send(self, body: dict[str, Any], key: str = SIGNING_KEY, **headers: str) -> httpx.Response:
        content = json.dumps(body)
        sent_at = datetime.now(tz=UTC)
        signed = {
            "webhook-id": str(body.get("id")),
            "webhook-timestamp": str(int(sent_at.timestamp())),
            "webhook-signature": Webhook(key).sign(str(body.get("id")), sent_at, content),
        }
        return await self.request("POST", "/webhook", content=content, headers=signed | headers)

    async def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=DEADLINE_SECONDS, trust_env=False) as client:
            return await client.request(method, f"http://127.0.0.1:{self.port}{path}", **arguments)

    async def probe(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(timeout=DEADLINE_SECONDS, trust_env=False) as client:
            return await client.get(f"http://127.0.0.1:{self.probe_port}{path}")


@asynccontextmanager
async def running_webhook(
    kubeconfig: Path, namespace: str, credentials: Path, **settings: str
) -> AsyncIterator[WebhookProcess]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "KUBECONFIG": str(kubeconfig),
        "MANAGED_SESSIONS_NAMESPACE": namespace,
        "MANAGED_SESSIONS_CREDENTIALS_DIR": str(credentials),
        "MANAGED_SESSIONS_WEBHOOK_HOST": "127.0.0.1",
        "MANAGED_SESSIONS_WEBHOOK_PORT": "0",
        "MANAGED_SESSIONS_PROBE_HOST": "127.0.0.1",
        "MANAGED_SESSIONS_PROBE_PORT": "0",
        "MANAGED_SESSIONS_WEBHOOK_READINESS_INTERVAL_SECONDS": "0.2",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "managed_session_webhook.main", env=environment, stderr=asyncio.subprocess.PIPE
    )
    webhook = WebhookProcess(process, credentials)
    listening = asyncio.Event()
    following = asyncio.create_task(webhook.follow(listening))
    try:
        await asyncio.wait_for(listening.wait(), DEADLINE_SECONDS)
        assert webhook.port, webhook.text
        yield webhook
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await following


class Cluster:
    """What an administrator sees in the test's namespace."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.control_plane = control_plane
        self.namespace = namespace

    async def kubectl(self, *args: str, stdin: str | None = None) -> str:
        return await self.control_plane.kubectl(f"--namespace={self.namespace}", *args, input=stdin)

    async def resources(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(await self.kubectl("get", names.PLURAL, "--output=json"))[
            "items"
        ]
        return items

    async def resource(self) -> dict[str, Any]:
        [only] = await self.resources()
        return only

    async def patch(self, change: dict[str, Any], *args: str) -> None:
        await self.kubectl(
            "patch", names.PLURAL, NAME, "--type=merge", f"--patch={json.dumps(change)}", *args
        )


def event(
    number: int = 1, type_: str = RUN, session: object = SESSION, at: datetime | None = None
) -> dict[str, Any]:
    created_at = at or T0 + timedelta(seconds=number)
    return {
        "type": "event",
        "id": f"whe_{number}",
        "created_at": created_at.isoformat().replace("+00:00", "Z"),
        "data": {"type": type_, "id": session, "organization_id": "org", "workspace_id": "wrkspc"},
    }


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = DEADLINE_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.02)


async def logged(webhook: WebhookProcess, message: str) -> list[dict[str, Any]]:
    """The log lines that begin so, once there is one: a line may be read after the answer that follows it."""

    async def read() -> bool:
        return bool(webhook.logged(message))

    await until(read)
    return webhook.logged(message)


async def has_status(webhook: WebhookProcess, path: str, status: int) -> bool:
    return (await webhook.probe(path)).status_code == status
