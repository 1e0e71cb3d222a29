"""Measures the deliveries per second of one webhook process, and the creates of the API server itself.

It runs a real `managed-session-webhook` with a real etcd and kube-apiserver on this machine. They share its
cores with the load. The figures for new sessions and for repeated events are printed with their targets.
Usage: `python benchmarks/webhook_throughput.py [--sessions N] [--repeats N]`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import uvloop
import yaml
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane, established
from managed_session_runtime.kubernetes_client import connect
from managed_session_runtime.managed_session_client import ManagedSessionClient
from standardwebhooks import Webhook

ROOT = Path(__file__).parents[1]
KEY = "whsec_" + base64.b64encode(os.urandom(32)).decode()
SERVICE_ACCOUNT = "managed-session-webhook"
NEW_SESSIONS_TARGET = 300
REPEATED_EVENTS_TARGET = 1000
"""Minimum of deliveries per second of one webhook process."""


@dataclass
class Measurement:
    """The result of one phase."""

    name: str
    seconds: float
    latencies: list[float]
    statuses: Counter[int]
    processor_seconds: float
    control_plane_seconds: float = 0.0
    target: int | None = None

    def line(self) -> str:
        """One row of the printed table."""
        ordered = sorted(self.latencies)
        count = len(ordered)
        rate = count / self.seconds
        target = ""
        if self.target is not None:
            target = f"(target {self.target:>5}: {'met' if rate >= self.target else 'MISSED'})"
        return "   ".join(
            (
                f"{self.name:<35} {rate:>6.0f} /s {target:<22}",
                f"p50 {statistics.median(ordered) * 1e3:>5.1f} ms",
                f"p99 {ordered[int(count * 0.99)] * 1e3:>5.1f} ms",
                f"CPU each {self.processor_seconds / count * 1e3:.2f} ms",
                f"control plane {self.control_plane_seconds / count * 1e3:.2f} ms",
                str(dict(self.statuses)),
            )
        )


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor time that a process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


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


async def at_most(concurrency: int, count: int, act: Callable[[int, int], Awaitable[int]]) -> Measurement:
    """Run `act(worker, number)` for each number, at most `concurrency` at once."""
    numbers = iter(range(count))
    latencies: list[float] = []
    statuses: Counter[int] = Counter()

    async def work(worker: int) -> None:
        for number in numbers:
            began = time.perf_counter()
            statuses[await act(worker, number)] += 1
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(work(worker) for worker in range(concurrency)))
    return Measurement("", time.perf_counter() - began, latencies, statuses, 0.0)


async def send_all(
    name: str,
    port: int,
    requests: list[bytes],
    concurrency: int,
    process: psutil.Process,
    target: int | None = None,
) -> Measurement:
    """Send each request once, over `concurrency` persistent connections."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(concurrency)]

    async def send(worker: int, number: int) -> int:
        reader, writer = connections[worker]
        writer.write(requests[number])
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))
        return int(head[9:12])

    before = processor_seconds(process)
    measured = await at_most(concurrency, len(requests), send)
    measured.processor_seconds = processor_seconds(process) - before
    measured.name = name
    measured.target = target
    for _, writer in connections:
        writer.close()
    return measured


async def bare(
    name: str, kubeconfig: Path, namespace: str, count: int, concurrency: int, *, with_status: bool
) -> Measurement:
    """Measure what the API server itself can do for one client: creates, or creates with a status."""
    client = await connect(environ={"KUBECONFIG": str(kubeconfig)}, timeout_seconds=60.0)
    last_event = {"id": "whe_0", "type": "session.status_run_started", "createdAt": "2026-03-18T14:05:22Z"}
    async with client:
        api = ManagedSessionClient(client, namespace, component=SERVICE_ACCOUNT)

        async def create(_: int, number: int) -> int:
            session = f"sesn_{'status' if with_status else 'bare'}{number:08d}"
            resource_name = names.resource_name(session)
            resource = await api.create(resource_name, {"sessionID": session})
            if with_status:
                version = resource["metadata"]["resourceVersion"]
                await api.patch_status(resource_name, version, {"lastEvent": last_event})
            return 201

        # The API server delays creates for two seconds after the CRD was established.
        await create(0, count)
        before = time.process_time()
        measured = await at_most(concurrency, count, create)
        measured.processor_seconds = time.process_time() - before
    measured.name = name
    return measured


async def prepare(control_plane: ControlPlane, namespace: str) -> Path:
    """Create the CRD, the namespace, and the webhook's ServiceAccount with its rights."""
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
async def webhook(
    kubeconfig: Path, namespace: str, credentials: Path
) -> AsyncIterator[tuple[int, psutil.Process]]:
    """Run the webhook. Yield its port and its statistics."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "KUBECONFIG": str(kubeconfig),
        "MANAGED_SESSIONS_NAMESPACE": namespace,
        "MANAGED_SESSIONS_CREDENTIALS_DIR": str(credentials),
        "MANAGED_SESSIONS_WEBHOOK_HOST": "127.0.0.1",
        "MANAGED_SESSIONS_WEBHOOK_PORT": "0",
        "MANAGED_SESSIONS_PROBE_PORT": "0",
    }
    with (credentials / "log").open("w+") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "managed_session_webhook.main",
            env=environment,
            stderr=log,
        )
        try:
            port = 0
            while not port:
                if process.returncode is not None:
                    raise RuntimeError((credentials / "log").read_text())
                await asyncio.sleep(0.05)
                for line in (credentials / "log").read_text().splitlines():
                    port = json.loads(line).get("port", port)
            yield port, psutil.Process(process.pid)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    namespace = names.RESOURCE_NAMESPACE
    async with ControlPlane() as control_plane:
        kubeconfig = await prepare(control_plane, namespace)
        with tempfile.TemporaryDirectory() as folder:
            credentials = Path(folder)
            (credentials / "anthropic-webhook-signing-key").write_text(KEY)
            async with webhook(kubeconfig, namespace, credentials) as (port, process):
                sessions = [f"sesn_{os.urandom(12).hex()}" for _ in range(options.sessions)]
                new = [delivery(number, session) for number, session in enumerate(sessions)]
                repeated = (new * (options.repeats // len(new) + 1))[: options.repeats]
                unsigned = [delivery(n, sessions[0], signed=False) for n in range(options.repeats)]
                print(
                    f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.concurrency} at a time",
                    flush=True,
                )
                servers = [psutil.Process(pid) for pid in control_plane.process_ids.values()]
                count, width = options.sessions, options.concurrency
                client = (kubeconfig, namespace, count, width)
                phases: list[Callable[[], Awaitable[Measurement]]] = [
                    lambda: bare("limit: creates", *client, with_status=False),
                    lambda: bare("limit: creates, each with a status", *client, with_status=True),
                    lambda: send_all("webhook: new sessions", port, new, width, process, NEW_SESSIONS_TARGET),
                    lambda: send_all(
                        "webhook: repeated events", port, repeated, width, process, REPEATED_EVENTS_TARGET
                    ),
                    lambda: send_all("webhook: bad signatures", port, unsigned, width, process),
                ]
                for phase in phases:
                    before = sum(processor_seconds(server) for server in servers)
                    measured = await phase()
                    measured.control_plane_seconds = sum(map(processor_seconds, servers)) - before
                    print(measured.line(), flush=True)
                print(f"webhook's memory: {process.memory_info().rss / 2**20:.0f} MiB resident")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=6000)
    parser.add_argument("--concurrency", type=int, default=48)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
