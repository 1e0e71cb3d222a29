"""The system that a soak works on: its pods, its proxies, and what has been done to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from managed_session_api import names
from managed_session_local.control_plane import ControlPlane, KubectlError
from managed_session_local.pod import Pod
from managed_session_local.simulators.e2b.client import SimulatedSandbox
from managed_session_local.system import LocalSystem

from ..cluster.sessions import QUICK, sandboxes_of
from ..faults.api_server_proxy import ApiServerProxy
from ..faults.arrangements import Arrangement
from .trace import Deletions, Trace

CONCURRENT_SANDBOXES = 100
LOSSES = ("vanished", "lost while pausing", "its processes ended")
"""Reasons for which a sandbox of the simulator ends without being killed."""
KUBECTL_SECONDS = 10.0
LEASE_SECONDS = 15
_ATTEMPTS = 5

SOAK = Arrangement(
    "soak",
    operators=2,
    operator={
        **QUICK,
        # Two busy cores must not look like a lost leader all the time.
        "lease_duration_seconds": "8",
        "lease_renew_seconds": "1.5",
        "request_timeout_seconds": "5",
        "create_timeout_seconds": "5",
        "kubernetes_timeout_seconds": "5",
        "max_active_sandboxes": "20",
        "attach_timeout_seconds": "5",
        "worker_start_timeout_seconds": "10",
        "ttl_seconds_after_end": "0",
        "end_checks_per_minute": "600",
        "end_check_seconds": "20",
    },
    anthropic={"work": {"lease_ttl_seconds": LEASE_SECONDS}, "webhooks": {"time_scale": 0.1}},
    e2b={"max_concurrent_sandboxes": CONCURRENT_SANDBOXES},
)


@dataclass
class World:
    """What users and chaos share.

    Attributes:
        plane: the control plane, which chaos may stop.
        system: on it.
        proxies: before the API server, by pod.
        sessions: IDs of the sessions whose users are at it.
        suspended: resources that chaos has suspended.
        ended_by_themselves: pods that had to be started again though nobody had killed them.
    """

    plane: ControlPlane
    system: LocalSystem
    proxies: dict[str, ApiServerProxy]
    trace: Trace = field(default_factory=Trace)
    deletions: Deletions = field(default_factory=Deletions)
    sessions: set[str] = field(default_factory=set)
    suspended: set[str] = field(default_factory=set)
    ended_by_themselves: list[str] = field(default_factory=list)
    plane_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _taken: set[str] = field(default_factory=set)

    @property
    def pods(self) -> dict[str, Pod]:
        """Webhook and operators, by name."""
        return {pod.name: pod for pod in (self.system.webhook, *self.system.operators)}

    @asynccontextmanager
    async def taken(self, name: str) -> AsyncIterator[Pod | None]:
        """A pod for one hand of chaos alone; None where another one has it."""
        if name in self._taken:
            yield None
            return
        self._taken.add(name)
        try:
            yield self.pods[name]
        finally:
            self._taken.discard(name)

    async def keep_pods(self) -> None:
        """Start pods again that ended by themselves, as Kubernetes does."""
        while True:
            await asyncio.sleep(0.5)
            for name in self.pods:
                async with self.taken(name) as pod:
                    if pod is not None and not pod.running:
                        self.ended_by_themselves.append(name)
                        self.trace.add("pod", "ended by itself", detail=name)
                        await pod.process.stop(kill=True)
                        await pod.start()

    async def calm(self) -> None:
        """End all faults; everything runs again."""
        for proxy in self.proxies.values():
            proxy.clear()
        await self.system.e2b_admin.clear_faults()
        await self.system.e2b_admin.change_settings(max_concurrent_sandboxes=CONCURRENT_SANDBOXES)
        await self.system.anthropic_admin.clear_faults()
        await self.system.anthropic_admin.release_webhooks()
        for name in list(self.suspended):
            for _ in range(_ATTEMPTS):
                if (
                    await self.suspend(name, wanted=False)
                    or await self.kubectl("get", "namespaces") is not None
                ):
                    # Taken, or there is no such resource any more.
                    break
        self.trace.add("chaos", "end of all faults")

    async def kubectl(self, *args: str) -> str | None:
        """kubectl's output; None where the API server does not answer."""
        try:
            return await self.plane.kubectl(
                f"--namespace={self.system.namespace}", *args, timeout_seconds=KUBECTL_SECONDS
            )
        except (KubectlError, TimeoutError):
            return None

    async def resource(self, session_id: str) -> dict[str, Any] | None:
        """The session's resource, empty where there is none; None where the API server does not answer."""
        found = await self.kubectl(
            "get", names.PLURAL, names.resource_name(session_id), "--ignore-not-found", "--output=json"
        )
        if found is None:
            return None
        parsed: dict[str, Any] = json.loads(found) if found.strip() else {}
        return parsed

    async def suspend(self, name: str, *, wanted: bool) -> bool:
        """Set a resource's `suspend`; whether the API server took it."""
        patch = json.dumps({"spec": {"lifecycle": {"suspend": wanted}}})
        done = await self.kubectl("patch", names.PLURAL, name, "--type=merge", "--patch", patch)
        if wanted:
            self.suspended.add(name)
        elif done is not None:
            self.suspended.discard(name)
        return done is not None

    async def files_destroyed(self, session_id: str, moment: float) -> bool:
        """Whether chaos has destroyed the session's files after a moment (seconds since the epoch)."""
        return self.deletions.of(session_id, since=moment) or any(
            lost_by_e2b(each) and each.killed_at is not None and each.killed_at.timestamp() >= moment
            for each in await sandboxes_of(self.system, session_id, "killed")
        )

    async def sandboxes(self, *states: str) -> list[SimulatedSandbox]:
        """Sandboxes of sessions whose users are at it, in these states, in a lasting order."""
        found = await self.system.e2b_admin.sandboxes(*states)
        mine = [each for each in found if session_of(each) in self.sessions]
        return sorted(mine, key=lambda each: each.created_at)


def session_of(sandbox: SimulatedSandbox) -> str:
    """The session that a sandbox belongs to."""
    return sandbox.metadata.get(names.METADATA_SESSION, "")


def lost_by_e2b(sandbox: SimulatedSandbox) -> bool:
    """Whether it ended by a fault of E2B: vanished, or lost in a pause that failed."""
    return sandbox.kill_reason in LOSSES


def condition(resource: dict[str, Any], type_: str) -> dict[str, Any]:
    """One of a resource's conditions; empty where it is not set."""
    found = resource.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == type_), {})
