"""Typed view of a ManagedSession: what a person writes (spec) and what was observed (status).

Field names in JSON are camelCase; `crds/managedsessions.yaml` describes each field for `kubectl explain`,
and a test keeps the two in agreement.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from managed_session_api import names
from managed_session_api.conditions import ConditionStatus, ConditionType, Phase
from managed_session_api.times import as_utc, to_wire

Timestamp = Annotated[datetime, AfterValidator(as_utc), PlainSerializer(to_wire, when_used="json")]


def _field_name(name: str) -> str:
    """`session_id` → `sessionID`: Kubernetes writes ID and TTL in capitals."""
    camel = to_camel(name).replace("Ttl", "TTL")
    return camel.removesuffix("Id") + "ID" if camel.endswith("Id") else camel


class Model(BaseModel):
    """Base of the resource's parts: camelCase in JSON, fields of a newer version are ignored."""

    model_config = ConfigDict(
        alias_generator=_field_name, populate_by_name=True, extra="ignore", use_enum_values=False
    )

    def to_json(self) -> dict[str, Any]:
        """JSON form without absent fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class OnSandboxLost(StrEnum):
    """What to do when the session's sandbox has vanished."""

    RECREATE = "Recreate"
    FAIL = "Fail"


class NetworkSpec(Model):
    """Egress rules of the sandbox (E2B `network.allowOut` and `network.denyOut`)."""

    allow: list[str] = Field(default_factory=list)
    deny: list[str] = Field(default_factory=list)


class SandboxSpec(Model):
    """Wishes for the sandbox; they take effect with the next sandbox unless said otherwise."""

    template: str | None = None
    timeout_seconds: int | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    network: NetworkSpec | None = None
    auto_resume: bool = False
    allow_public_traffic: bool = False


class WorkerSpec(Model):
    """Wishes for the worker; they take effect with its next start."""

    max_idle_seconds: int | None = None
    attach_timeout_seconds: int | None = None
    log_level: str | None = None


class LifecycleSpec(Model):
    """When the session's sandbox is paused, kept and given up; live."""

    suspend: bool = False
    idle_ttl_seconds: int | None = None
    ttl_seconds_after_end: int | None = None
    on_sandbox_lost: OnSandboxLost | None = None


class RoutingSpec(Model):
    """What shares a sandbox: `session` is the one scope there is."""

    scope: str = "session"


class Spec(Model):
    """Identity and policy."""

    session_id: str
    environment_id: str | None = None
    agent_id: str | None = None
    routing: RoutingSpec = Field(default_factory=RoutingSpec)
    sandbox: SandboxSpec = Field(default_factory=SandboxSpec)
    worker: WorkerSpec = Field(default_factory=WorkerSpec)
    lifecycle: LifecycleSpec = Field(default_factory=LifecycleSpec)


class EventStatus(Model):
    """The newest webhook event about the session; written by the webhook alone."""

    id: str
    type: str
    created_at: Timestamp


class SandboxState(StrEnum):
    """`status.sandbox.state`."""

    CREATING = "Creating"
    RUNNING = "Running"
    PAUSED = "Paused"
    LOST = "Lost"


class SandboxStatus(Model):
    """The session's sandbox in E2B."""

    id: str | None = None
    state: SandboxState | None = None
    template_id: str | None = None
    started_at: Timestamp | None = None
    saved_period_started_at: Timestamp | None = None
    """E2B's `startedAt` of the running period that the newest pause saved; every later period's is later."""
    attempt: int = 0
    """How many sandboxes were asked for; written before each create, part of its idempotency key."""


class WorkStatus(Model):
    """The claim on the session's work item that is served, or was served last."""

    id: str | None = None
    claim: str | None = None
    offered_at: Timestamp | None = None
    acknowledged_at: Timestamp | None = None
    first_heartbeat_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    exit_reason: str | None = None
    attempts: int = 0
    """Starts of a worker for this claim."""


class RecoveryStatus(Model):
    """What is known of a session whose turn may not be over although nobody serves it."""

    suspected_at: Timestamp | None = None
    """When a claim ended without the turn being known to be over."""
    checked_at: Timestamp | None = None
    """When the session was last seen to wait for nobody; settles what was suspected or announced before."""
    attempts: int = 0
    """Attempts in a row that did not bring the turn to its end."""


class EffectiveStatus(Model):
    """The policy in force: the spec, completed by the operator's settings."""

    template: str
    timeout_seconds: int
    max_idle_seconds: int
    attach_timeout_seconds: int
    log_level: str
    idle_ttl_seconds: int
    ttl_seconds_after_end: int
    on_sandbox_lost: OnSandboxLost


class Condition(Model):
    """One of the standard Kubernetes conditions."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str = ""
    last_transition_time: Timestamp
    observed_generation: int | None = None


class Status(Model):
    """What was observed. Everything but `lastEvent` is written by the operator."""

    phase: Phase | None = None
    last_event: EventStatus | None = None
    sandbox: SandboxStatus = Field(default_factory=SandboxStatus)
    work: WorkStatus = Field(default_factory=WorkStatus)
    recovery: RecoveryStatus = Field(default_factory=RecoveryStatus)
    effective: EffectiveStatus | None = None
    turns: int = 0
    last_active_time: Timestamp | None = None
    ended_at: Timestamp | None = None
    observed_generation: int | None = None
    conditions: list[Condition] = Field(default_factory=list)

    def condition(self, type_: ConditionType) -> Condition | None:
        """The condition of that type, if it is set."""
        return next((c for c in self.conditions if c.type == type_), None)


class Metadata(Model):
    """The part of `metadata` that we read."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None
    finalizers: list[str] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class ManagedSession(Model):
    """One resource."""

    metadata: Metadata
    spec: Spec
    status: Status = Field(default_factory=Status)

    @property
    def identity(self) -> str:
        """What its sandboxes carry; unlike the UID it is the same in a resource restored from a backup."""
        return names.identity({"annotations": self.metadata.annotations, "uid": self.metadata.uid})

    @property
    def may_be_restored(self) -> bool:
        """Whether sandboxes may be older than it: it was restored, or the operator made it."""
        return self.identity != self.metadata.uid
