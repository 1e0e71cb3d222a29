"""A dashboard process on a real API server, and what a test does around it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from managed_session_api import names
from managed_session_api.times import to_wire
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.dashboard import dashboard_pod
from managed_session_devkit.system.manifests import install
from managed_session_devkit.system.pod import Pod

from ..support.resources import Resources, classes_in
from ..support.systems import unique_name

AGENT = "agent_01AbCdEfGhIj"
ENVIRONMENT = "env_01AbCdEfGhIj"
VIEWER = "managed-session-dashboard-viewer"
STATIC_TOKEN = "static-token-of-the-tests-0123456789"
QUICK = {"dashboard_update_seconds": "0.1", "dashboard_recheck_seconds": "0.3", "max_active_sandboxes": "20"}


def ago(seconds: float) -> str:
    """A time in the past, as resources have it."""
    return to_wire(datetime.now(UTC) - timedelta(seconds=seconds))


def ready(reason: str, message: str = "", *, status: str = "True", since: float = 60) -> dict[str, Any]:
    """The conditions of a status, with only Ready."""
    return {
        "conditions": [
            {
                "type": "Ready",
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": ago(since),
            }
        ]
    }


@dataclass
class Event:
    """One server-sent event."""

    name: str = ""
    id: str = ""
    data: Any = None


@dataclass
class Site:
    """A running dashboard with namespaces of its own."""

    control_plane: ControlPlane
    namespace: str
    pod: Pod
    url: str
    sessions: Resources
    classes: Resources
    made: int = field(default=0)

    @property
    def system_namespace(self) -> str:
        return f"{self.namespace}-system"

    async def kubectl(self, *arguments: str, standard_input: str | None = None) -> str:
        return await self.control_plane.kubectl(
            f"--namespace={self.namespace}", *arguments, input=standard_input
        )

    async def token(self, account: str = VIEWER, *, duration: str = "1h") -> str:
        """A new token of an account in the system namespace."""
        made = await self.control_plane.kubectl(
            "create", "token", account, f"--namespace={self.system_namespace}", f"--duration={duration}"
        )
        return made.strip()

    async def make(self, session: str, status: Mapping[str, Any] | None = None, **spec: Any) -> str:
        """Make a session with this status, and return its resource's name."""
        name = names.resource_name(session)
        wanted = {"sessionID": session, "agentID": AGENT, "environmentID": ENVIRONMENT, **spec}
        await self.sessions.create(wanted, name)
        if status is not None:
            await self.sessions.patch_status(dict(status), name)
        return name

    async def post_event(
        self, name: str, reason: str, message: str, *, at: datetime | None = None, kind: str = "Normal"
    ) -> None:
        """Post a Kubernetes Event about a session."""
        uid = (await self.sessions.read(name))["metadata"]["uid"]
        time = (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.made += 1
        about = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": name, "uid": uid}
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name}.{self.made}"},
            "involvedObject": {**about, "namespace": self.namespace},
            "type": kind,
            "reason": reason,
            "message": message,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        }
        await self.kubectl("create", "--filename=-", standard_input=json.dumps(body))

    def client(self) -> httpx.AsyncClient:
        """A client that is not signed in."""
        return httpx.AsyncClient(base_url=self.url, timeout=30.0, trust_env=False)

    @asynccontextmanager
    async def viewer(self, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
        """A client that has signed in."""
        async with self.client() as client:
            answer = await client.post("sign-in", data={"token": token or await self.token()})
            assert answer.status_code == 303, answer.text
            yield client

    @asynccontextmanager
    async def stream(self, client: httpx.AsyncClient, since: str, session: str = "") -> AsyncIterator[Stream]:
        """The server-sent events after a position."""
        query = {"since": since, "session": session}
        async with client.stream("GET", "api/stream", params=query) as answer:
            assert answer.status_code == 200
            yield Stream(answer)

    async def metrics(self) -> str:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"{self.pod.probe_url}/metrics")).text


class Stream:
    """Reads server-sent events."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def next(self, name: str, *, seconds: float = 30.0) -> Event:
        """The next event of this name."""
        async with asyncio.timeout(seconds):
            event = Event()
            async for line in self._lines:
                key, _, value = line.partition(": ")
                if key == "event":
                    event.name = value
                elif key == "id":
                    event.id = value
                elif key == "data":
                    event.data = json.loads(value)
                elif not line:
                    if event.name == name:
                        return event
                    event = Event()
        raise AssertionError(f"the stream ended before an event {name}")

    async def row(self, name: str, column: int, value: Any) -> Event:
        """The next change after which the session of this name has the value in a column."""
        while True:
            event = await self.next("changes")
            for row in event.data.get("sessions", {}).get("rows", []):
                if row[0] == name and row[column] == value:
                    return event


@asynccontextmanager
async def dashboard(
    control_plane: ControlPlane, folder: Path, *, api_server_url: str | None = None, **settings: str
) -> AsyncIterator[Site]:
    """Install the rights of deploy/ and deploy/dashboard/ in new namespaces; run the process with them."""
    namespace = unique_name()
    await install(control_plane, namespace, f"{namespace}-system")
    pod, url = await dashboard_pod(
        control_plane,
        namespace,
        f"{namespace}-system",
        folder,
        settings={**QUICK, **settings},
        api_server_url=api_server_url,
    )
    try:
        await pod.start()
        await pod.wait_ready()
        yield Site(
            control_plane,
            namespace,
            pod,
            url,
            Resources(control_plane, namespace, ""),
            classes_in(control_plane, namespace, ""),
        )
    finally:
        await pod.process.stop()
        log = pod.log.read_text() if pod.log.is_file() else ""
        assert not re.search(r"eyJ[\w-]{20}|" + STATIC_TOKEN, log), "a token is in the log"
        assert "Traceback" not in log, log[-3000:]
