"""Webhook processes on a real API server, and the events that are sent to them."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import yaml
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane, established
from managed_session_runtime.kubernetes_client import connect
from managed_session_runtime.managed_session_client import ManagedSessionClient
from standardwebhooks import Webhook

ROOT = Path(__file__).parents[1]
KEY = "whsec_" + base64.b64encode(os.urandom(32)).decode()
SERVICE_ACCOUNT = "managed-session-webhook"


@dataclass(frozen=True)
class Sent:
    """What sending requests has taken.

    Attributes:
        seconds: from the first to the last answer.
        latencies: of each request, seconds.
        statuses: the HTTP statuses of the answers.
    """

    seconds: float
    latencies: list[float]
    statuses: list[int]

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.statuses) / self.seconds


@dataclass(frozen=True)
class Webhooks:
    """Running webhooks: their ports and processes, and the kubeconfig that they use."""

    kubeconfig: Path
    ports: Sequence[int]
    processes: Sequence[psutil.Process]


@asynccontextmanager
async def webhooks(count: int) -> AsyncIterator[Webhooks]:
    """Run a control plane and this many webhook processes."""
    async with AsyncExitStack() as stack:
        control_plane = await stack.enter_async_context(ControlPlane())
        kubeconfig = await _prepare(control_plane)
        folder = Path(stack.enter_context(TemporaryDirectory()))
        (folder / "anthropic-webhook-signing-key").write_text(KEY)
        started = [
            await stack.enter_async_context(_webhook(kubeconfig, folder, number)) for number in range(count)
        ]
        yield Webhooks(kubeconfig, [port for port, _ in started], [process for _, process in started])


async def _prepare(control_plane: ControlPlane) -> Path:
    """Create the CRD, the namespace, and the webhook's ServiceAccount with its rights."""
    namespace = names.RESOURCE_NAMESPACE
    await control_plane.kubectl("apply", f"--filename={ROOT / 'crds/managedsessions.yaml'}")
    await established(control_plane.kubectl)
    await control_plane.kubectl("create", "namespace", namespace)
    await control_plane.kubectl(f"--namespace={namespace}", "create", "serviceaccount", SERVICE_ACCOUNT)
    roles = []
    for document in yaml.safe_load_all((ROOT / "deploy/30-roles.yaml").read_text()):
        if document["metadata"]["name"] == SERVICE_ACCOUNT:
            document["metadata"]["namespace"] = namespace
            for subject in document.get("subjects", []):
                subject["namespace"] = namespace
            roles.append(document)
    await control_plane.kubectl("apply", "--filename=-", input=yaml.safe_dump_all(roles))
    return await control_plane.service_account_kubeconfig(namespace, SERVICE_ACCOUNT)


@asynccontextmanager
async def _webhook(
    kubeconfig: Path, credentials: Path, number: int
) -> AsyncIterator[tuple[int, psutil.Process]]:
    """Run one webhook. Yield its port and its process."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "KUBECONFIG": str(kubeconfig),
        "MANAGED_SESSIONS_NAMESPACE": names.RESOURCE_NAMESPACE,
        "MANAGED_SESSIONS_CREDENTIALS_DIR": str(credentials),
        "MANAGED_SESSIONS_WEBHOOK_HOST": "127.0.0.1",
        "MANAGED_SESSIONS_WEBHOOK_PORT": "0",
        "MANAGED_SESSIONS_PROBE_PORT": "0",
    }
    path = credentials / f"log-{number}"
    with path.open("w+") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "managed_session_webhook.main", env=environment, stderr=log
        )
        try:
            port = 0
            while not port:
                if process.returncode is not None:
                    raise RuntimeError(path.read_text())
                await asyncio.sleep(0.05)
                for line in path.read_text().splitlines():
                    port = json.loads(line).get("port", port)
            yield port, psutil.Process(process.pid)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def delivery(number: int, session: str, *, signed: bool = True) -> bytes:
    """Return the bytes of one HTTP request."""
    body = json.dumps(
        {
            "type": "event",
            "id": f"whe_{number:08d}",
            "created_at": "2026-03-18T14:05:22Z",
            "data": {
                "type": "session.status_run_started",
                "id": session,
                "organization_id": "8a3d2f1e-0000-4000-8000-000000000000",
                "workspace_id": "c7b0e4d9-0000-4000-8000-000000000000",
            },
        }
    )
    now = datetime.now(tz=UTC)
    signature = Webhook(KEY).sign(f"whe_{number:08d}", now, body) if signed else "v1,bm90IGEgc2lnbmF0dXJl"
    head = (
        "POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"webhook-id: whe_{number:08d}\r\nwebhook-timestamp: {int(now.timestamp())}\r\n"
        f"webhook-signature: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


def new_sessions(count: int) -> list[bytes]:
    """Return a delivery for each of `count` new sessions."""
    return [delivery(number, f"sesn_{os.urandom(12).hex()}") for number in range(count)]


async def at_most(concurrency: int, count: int, act: Callable[[int, int], Awaitable[int]]) -> Sent:
    """Run `act(worker, number)` for each number, at most `concurrency` at once. It returns a status."""
    numbers = iter(range(count))
    latencies: list[float] = []
    statuses: list[int] = []

    async def work(worker: int) -> None:
        for number in numbers:
            began = time.perf_counter()
            statuses.append(await act(worker, number))
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(work(worker) for worker in range(concurrency)))
    return Sent(time.perf_counter() - began, latencies, statuses)


async def send_all(ports: Sequence[int], requests: Sequence[bytes], concurrency: int) -> Sent:
    """Send each request once, over `concurrency` persistent connections, which the webhooks share."""
    connections = [
        await asyncio.open_connection("127.0.0.1", port)
        for port, _ in zip(itertools.cycle(ports), range(concurrency), strict=False)
    ]

    async def send(worker: int, number: int) -> int:
        reader, writer = connections[worker]
        writer.write(requests[number])
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))
        return int(head[9:12])

    sent = await at_most(concurrency, len(requests), send)
    for _, writer in connections:
        writer.close()
    return sent


async def write_directly(kubeconfig: Path, count: int, concurrency: int) -> Sent:
    """Make the same writes without a webhook, by one client: what the API server itself can do."""
    client = await connect(environ={"KUBECONFIG": str(kubeconfig)}, timeout_seconds=60.0)
    last_event = {"id": "whe_0", "type": "session.status_run_started", "createdAt": "2026-03-18T14:05:22Z"}
    async with client:
        api = ManagedSessionClient(client, names.RESOURCE_NAMESPACE, component=SERVICE_ACCOUNT)

        async def create(_: int, number: int) -> int:
            session = f"sesn_direct{number:08d}"
            resource_name = names.resource_name(session)
            resource = await api.create(resource_name, {"sessionID": session})
            version = resource["metadata"]["resourceVersion"]
            await api.patch_status(resource_name, version, {"lastEvent": last_event})
            return 201

        # The API server delays creates for two seconds after the CRD was established.
        await create(0, count)
        return await at_most(concurrency, count, create)
