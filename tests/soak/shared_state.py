"""The state that the loops of a soak share: the system, its proxies, and the actions so far."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane, KubectlError
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.pod import Pod

from ..support.api_server_proxy import ApiServerProxy
from ..support.arrangements import Arrangement
from ..support.sessions import QUICK, sandboxes_of
from .prepared_sessions import PreparedSessions
from .trace import Deletions, Trace

CONCURRENT_SANDBOXES = 100
LOSSES = ("vanished", "lost while pausing", "its processes ended")
"""The simulator's reasons for sandboxes that end without a kill."""
KUBECTL_SECONDS = 10.0
LEASE_SECONDS = 15
_ATTEMPTS = 5

SOAK = Arrangement(
    "soak",
    operators=2,
    operator={
        **QUICK,
        # Shorter times would make a busy machine look like a lost leader.
        "lease_duration_seconds": "8",
        "lease_renew_seconds": "1.5",
        "request_timeout_seconds": "5",
        "create_timeout_seconds": "5",
        "kubernetes_timeout_seconds": "5",
        "max_active_sandboxes": "20",
        "attach_timeout_seconds": "5",
        "pause_while_waiting_seconds": "2",
        "worker_start_timeout_seconds": "10",
        # The faults end workers in their calls, and every call has to be served all the same.
        "tool_call_attempts": "100",
        "ttl_seconds_after_end": "0",
        "end_checks_per_minute": "600",
        "end_check_seconds": "20",
    },
    anthropic={"work": {"lease_ttl_seconds": LEASE_SECONDS}, "webhooks": {"time_scale": 0.1}},
    e2b={"max_concurrent_sandboxes": CONCURRENT_SANDBOXES, "egress_proxy": True},
)


@dataclass
class SharedState:
    """The state that users and chaos share.

    Attributes:
        control_plane: the control plane, which the chaos may stop.
        system: the system under test.
        proxies: proxies in front of the API server, by pod.
        prepared: what the prepared sessions use.
        sessions: IDs of the sessions that users play.
        suspended: resources that the chaos has suspended.
        chaos_is_over: set when no more faults may be injected and lasting ones have to end.
        ended_unexpectedly: pods that ended without a kill, and were restarted.
    """

    control_plane: ControlPlane
    system: LocalSystem
    proxies: dict[str, ApiServerProxy]
    prepared: PreparedSessions
    trace: Trace = field(default_factory=Trace)
    deletions: Deletions = field(default_factory=Deletions)
    sessions: set[str] = field(default_factory=set)
    suspended: set[str] = field(default_factory=set)
    ended_unexpectedly: list[str] = field(default_factory=list)
    chaos_is_over: asyncio.Event = field(default_factory=asyncio.Event)
    control_plane_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _reserved: set[str] = field(default_factory=set)

    @property
    def pods(self) -> dict[str, Pod]:
        """The webhook and the operators, by name."""
        return {pod.name: pod for pod in (self.system.webhook, *self.system.operators)}

    @asynccontextmanager
    async def reserved(self, name: str) -> AsyncIterator[Pod | None]:
        """Reserve a pod for one fault loop. Yield None if another loop has it."""
        if name in self._reserved:
            yield None
            return
        self._reserved.add(name)
        try:
            yield self.pods[name]
        finally:
            self._reserved.discard(name)

    async def hold(self, seconds: float) -> None:
        """Wait as long as a fault lasts: `seconds`, or until the chaos is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.chaos_is_over.wait(), seconds)

    async def keep_pods(self) -> None:
        """Restart pods that end by themselves, as Kubernetes does."""
        while True:
            await asyncio.sleep(0.5)
            for name in self.pods:
                async with self.reserved(name) as pod:
                    if pod is not None and not pod.running:
                        self.ended_unexpectedly.append(name)
                        self.trace.add("pod", "ended by itself", detail=name)
                        await pod.process.stop(kill=True)
                        await pod.start()

    async def end_faults(self) -> None:
        """End all faults, so that everything runs again."""
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
                    # The change was made, or the resource is gone.
                    break
        self.trace.add("chaos", "end of all faults")

    async def kubectl(self, *args: str) -> str | None:
        """Return kubectl's output, or None if the API server does not answer."""
        try:
            return await self.control_plane.kubectl(
                f"--namespace={self.system.namespace}", *args, timeout_seconds=KUBECTL_SECONDS
            )
        except (KubectlError, TimeoutError):
            return None

    async def resource(self, session_id: str) -> dict[str, Any] | None:
        """Return the session's resource, which may be empty, or None if the API server does not answer."""
        found = await self.kubectl(
            "get", names.PLURAL, names.resource_name(session_id), "--ignore-not-found", "--output=json"
        )
        if found is None:
            return None
        parsed: dict[str, Any] = json.loads(found) if found.strip() else {}
        return parsed

    async def suspend(self, name: str, *, wanted: bool) -> bool:
        """Set a resource's `suspend`. Return whether the API server accepted it."""
        patch = json.dumps({"spec": {"lifecycle": {"suspend": wanted}}})
        done = await self.kubectl("patch", names.PLURAL, name, "--type=merge", "--patch", patch)
        if wanted:
            self.suspended.add(name)
        elif done is not None:
            self.suspended.discard(name)
        return done is not None

    async def files_destroyed(self, session_id: str, moment: float) -> bool:
        """Return whether the chaos has destroyed the session's files after `moment` (Unix time)."""
        return self.deletions.of(session_id, since=moment) or any(
            lost_by_e2b(each) and each.killed_at is not None and each.killed_at.timestamp() >= moment
            for each in await sandboxes_of(self.system, session_id, "killed")
        )

    async def sandboxes(self, *states: str) -> list[SimulatedSandbox]:
        """Return the sandboxes of sessions that users play, in these states, in the order of creation."""
        found = await self.system.e2b_admin.sandboxes(*states)
        mine = [each for each in found if session_of(each) in self.sessions]
        return sorted(mine, key=lambda each: each.created_at)


def session_of(sandbox: SimulatedSandbox) -> str:
    """Return the session that a sandbox belongs to."""
    return sandbox.metadata.get(names.METADATA_SESSION, "")


def lost_by_e2b(sandbox: SimulatedSandbox) -> bool:
    """Return whether a fault of E2B ended the sandbox: it vanished, or a pause failed."""
    return sandbox.kill_reason in LOSSES


def condition(resource: dict[str, Any], type_: str) -> dict[str, Any]:
    """Return a condition of a resource, or an empty one."""
    found = resource.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == type_), {})
