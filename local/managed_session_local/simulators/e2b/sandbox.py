"""The record of one sandbox."""

import asyncio
import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from managed_session_local.simulators.e2b.ledger import now, timestamp
from managed_session_local.simulators.e2b.settings import Settings
from managed_session_local.simulators.e2b.slots import Slot, TemplateBuild

State = Literal["running", "pausing", "paused", "killing", "killed"]
_TOKEN_SEED = b"managed-sessions simulator"


def access_token(sandbox_id: str) -> str:
    """The sandbox's envd token: derived from its ID, the same after each resume."""
    digest = hmac.new(_TOKEN_SEED, sandbox_id.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


@dataclass
class Sandbox:
    """State and policy; `slot` is there while it has processes or files."""

    id: str
    alias: str
    build: TemplateBuild
    slot: Slot | None
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
    idempotency_key: str | None = None

    state: State = "running"
    pause_mode: Literal["full", "filesystem"] = "full"
    created_at: datetime = field(default_factory=now)
    started_at: datetime = field(default_factory=now)
    previous_start: datetime | None = None
    paused_at: datetime | None = None
    killed_at: datetime | None = None
    kill_reason: str | None = None
    resumes: int = 0
    history: list[dict[str, str]] = field(default_factory=list)
    billed_before: float = 0.0
    billing: bool = True
    hidden_until: datetime | None = None
    duplicates: int = 0
    expiry: asyncio.TimerHandle | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connections: set[asyncio.Transport] = field(default_factory=set)

    @property
    def exists(self) -> bool:
        """Whether the API knows it."""
        return self.state not in ("killing", "killed")

    def note(self, event: str) -> None:
        """Add to the history: created, paused, resumed, killed."""
        self.history.append({"at": timestamp(now()), "event": event})

    @property
    def running(self) -> bool:
        """Whether it runs and is in no transition."""
        return self.state == "running"

    @property
    def billed_seconds(self) -> float:
        """Running time so far."""
        current = (now() - self.started_at).total_seconds() if self.billing else 0.0
        return self.billed_before + current

    def stop_billing(self) -> None:
        """It no longer runs."""
        if self.billing:
            self.billed_before = self.billed_seconds
            self.billing = False

    def start_billing(self) -> None:
        """It runs (again) from now on: a new startedAt."""
        self.previous_start = self.started_at
        self.started_at = now()
        self.billing = True

    def visible_in_list(self, settings: Settings) -> bool:
        """Whether a listing may show it yet."""
        moment = now()
        if self.hidden_until is not None and moment < self.hidden_until:
            return False
        return moment >= self.created_at + timedelta(seconds=settings.list_lag_seconds)

    def drop_connections(self) -> None:
        """Cut what clients have open to it through the proxy."""
        for transport in list(self.connections):
            transport.abort()
        self.connections.clear()

    def created_json(self, settings: Settings) -> dict[str, Any]:
        """The answer of create and connect."""
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
        """An entry of the listing."""
        return {
            "templateID": self.build.template_id,
            "alias": self.alias,
            "sandboxID": self.id,
            "clientID": "6532622b",
            "startedAt": timestamp(self.started_at),
            "endAt": timestamp(self.end_at),
            "cpuCount": self.build.cpu_count,
            "memoryMB": self.build.memory_mb,
            "diskSizeMB": 10240,
            "envdVersion": settings.envd_version,
            "metadata": self.metadata,
            "state": "running" if self.state == "running" else "paused",
        }

    def detail_json(self, settings: Settings) -> dict[str, Any]:
        """The answer of get."""
        detail = {
            **self.listed_json(settings),
            "envdAccessToken": access_token(self.id),
            "domain": None,
            "lifecycle": {"onTimeout": self.on_timeout, "autoResume": self.auto_resume},
            "network": self.network,
            "volumeMounts": [],
        }
        if self.allow_internet_access is not None:
            detail["allowInternetAccess"] = self.allow_internet_access
        if self.state == "paused":
            detail["pauseMode"] = self.pause_mode
        return detail

    def control_json(self) -> dict[str, Any]:
        """Everything, for the control surface."""
        process = self.slot.process if self.slot else None
        return {
            "sandboxID": self.id,
            "state": self.state,
            "templateID": self.build.template_id,
            "buildID": self.build.build_id,
            "alias": self.alias,
            "metadata": self.metadata,
            "environment": self.environment,
            "network": self.network,
            "lifecycle": {"onTimeout": self.on_timeout, "autoResume": self.auto_resume},
            "idempotencyKey": self.idempotency_key,
            "createdAt": timestamp(self.created_at),
            "startedAt": timestamp(self.started_at),
            "endAt": timestamp(self.end_at),
            "pausedAt": timestamp(self.paused_at) if self.paused_at else None,
            "pauseMode": self.pause_mode if self.state == "paused" else None,
            "killedAt": timestamp(self.killed_at) if self.killed_at else None,
            "killReason": self.kill_reason,
            "resumes": self.resumes,
            "history": self.history,
            "billedSeconds": round(self.billed_seconds, 6),
            "root": str(self.slot.files) if self.slot else None,
            "initPID": process.host_pid if process and process.alive else None,
        }
