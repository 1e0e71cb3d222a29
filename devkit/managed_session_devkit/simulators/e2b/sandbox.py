"""The record of one sandbox."""

import asyncio
import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from managed_session_devkit.simulators.common.silent_connections import silence
from managed_session_devkit.simulators.common.times import now, rfc3339, timestamp
from managed_session_devkit.simulators.e2b.runtime_pool import Runtime, TemplateBuild
from managed_session_devkit.simulators.e2b.settings import Settings

State = Literal["running", "pausing", "paused", "killing", "killed"]
_TOKEN_SEED = b"managed-sessions simulator"


def access_token(sandbox_id: str) -> str:
    """Return the sandbox's envd token, which is derived from its ID and so survives resumes."""
    digest = hmac.new(_TOKEN_SEED, sandbox_id.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


@dataclass
class Sandbox:
    """A sandbox's state and policy. It has a `runtime` while it has processes or files."""

    id: str
    alias: str
    build: TemplateBuild
    runtime: Runtime | None
    timeout_seconds: float
    end_at: datetime
    metadata: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    allow_internet_access: bool | None = None
    on_timeout: Literal["pause", "kill"] = "kill"
    full_pause_on_timeout: bool = True
    auto_resume: bool = False
    traffic_token: str | None = None
    volume_mounts: list[dict[str, str]] = field(default_factory=list)
    idempotency_key: str | None = None

    state: State = "running"
    pause_mode: Literal["full", "filesystem"] = "full"
    created_at: datetime = field(default_factory=now)
    started_at: datetime = field(default_factory=now)
    saved_at: datetime | None = None
    """Time of the newest good snapshot."""
    wedged: bool = False
    """Whether its guest agent has stopped answering."""
    unresponsive_at_pause: bool = False
    crashed: bool = False
    """Whether its machine is gone while the record still says that it runs."""
    paused_at: datetime | None = None
    killed_at: datetime | None = None
    kill_reason: str | None = None
    resumes: int = 0
    history: list[dict[str, str]] = field(default_factory=list)
    billed_before: float = 0.0
    billing: bool = True
    hidden_until: datetime | None = None
    snapshotting: bool = False
    """Whether a snapshot is being taken, so that lists lack it."""
    duplicates: int = 0
    expiry: asyncio.TimerHandle | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connections: set[asyncio.Transport] = field(default_factory=set)

    @property
    def exists(self) -> bool:
        """Whether the API knows it."""
        return self.state not in ("killing", "killed")

    def note(self, event: str) -> None:
        """Add an event to the history: created, paused, resumed or killed."""
        self.history.append({"at": timestamp(), "event": event})

    @property
    def running(self) -> bool:
        """Whether it runs, and is not in a transition."""
        return self.state == "running"

    @property
    def billed_seconds(self) -> float:
        """The running time so far."""
        current = (now() - self.started_at).total_seconds() if self.billing else 0.0
        return self.billed_before + current

    def stop_billing(self) -> None:
        """End a period of running."""
        if self.billing:
            self.billed_before = self.billed_seconds
            self.billing = False

    def start_billing(self) -> None:
        """Begin a period of running, with a new startedAt."""
        self.started_at = now()
        self.billing = True

    def visible_in_list(self, settings: Settings) -> bool:
        """Return whether lists may show it yet."""
        moment = now()
        if self.hidden_until is not None and moment < self.hidden_until:
            return False
        if self.snapshotting:
            return False
        return moment >= self.created_at + timedelta(seconds=settings.list_lag_seconds)

    def drop_connections(self, *, silently: bool = False) -> None:
        """Cut clients' connections to it through the proxy: by a reset, or silently."""
        for transport in list(self.connections):
            if silently:
                silence(transport.get_extra_info("socket"))
            else:
                transport.abort()
        self.connections.clear()

    def created_json(self, settings: Settings) -> dict[str, Any]:
        """Return the answer of create and connect."""
        return {
            "templateID": self.build.template_id,
            "sandboxID": self.id,
            "clientID": "6532622b",
            "envdVersion": settings.envd_version,
            "envdAccessToken": access_token(self.id),
            "trafficAccessToken": self.traffic_token,
            "domain": None,
            "alias": self.alias,
        }

    def listed_json(self, settings: Settings) -> dict[str, Any]:
        """Return an entry of the list."""
        return {
            "templateID": self.build.template_id,
            "alias": self.alias,
            "sandboxID": self.id,
            "clientID": "6532622b",
            "startedAt": rfc3339(self.started_at),
            "endAt": rfc3339(self.end_at),
            "cpuCount": self.build.cpu_count,
            "memoryMB": self.build.memory_mb,
            "diskSizeMB": 10240,
            "envdVersion": settings.envd_version,
            "metadata": self.metadata,
            "state": "running" if self.state == "running" else "paused",
            **({"envdUnresponsiveAtPause": True} if self.unresponsive_at_pause else {}),
        }

    def detail_json(self, settings: Settings) -> dict[str, Any]:
        """Return the answer of get."""
        detail = {
            **self.listed_json(settings),
            "envdAccessToken": access_token(self.id),
            "domain": None,
            "lifecycle": {"onTimeout": self.on_timeout, "autoResume": self.auto_resume},
            "network": self.network,
            "volumeMounts": self.volume_mounts,
        }
        if self.allow_internet_access is not None:
            detail["allowInternetAccess"] = self.allow_internet_access
        if self.state == "paused":
            detail["pauseMode"] = self.pause_mode
        return detail

    def control_json(self) -> dict[str, Any]:
        """Return everything, for the control surface."""
        process = self.runtime.process if self.runtime else None
        return {
            "sandboxID": self.id,
            "state": self.state,
            "crashed": self.crashed,
            "templateID": self.build.template_id,
            "buildID": self.build.build_id,
            "alias": self.alias,
            "metadata": self.metadata,
            "environment": self.environment,
            "network": self.network,
            "lifecycle": {"onTimeout": self.on_timeout, "autoResume": self.auto_resume},
            "idempotencyKey": self.idempotency_key,
            "createdAt": rfc3339(self.created_at),
            "startedAt": rfc3339(self.started_at),
            "endAt": rfc3339(self.end_at),
            "pausedAt": rfc3339(self.paused_at) if self.paused_at else None,
            "pauseMode": self.pause_mode if self.state == "paused" else None,
            "killedAt": rfc3339(self.killed_at) if self.killed_at else None,
            "killReason": self.kill_reason,
            "resumes": self.resumes,
            "history": self.history,
            "billedSeconds": round(self.billed_seconds, 6),
            "root": str(self.runtime.files) if self.runtime else None,
            "initPID": process.host_pid if process and process.alive else None,
        }
