"""Models a ManagedSession: its desired state (spec) and its observed state (status).

Field names in JSON are camelCase. `crds/managedsessions.yaml` describes each field for `kubectl explain`; a
test compares the two.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from managed_session_api import names
from managed_session_api.conditions import ConditionStatus, ConditionType, Phase
from managed_session_api.times import as_utc, to_wire

Timestamp = Annotated[datetime, AfterValidator(as_utc), PlainSerializer(to_wire, when_used="json")]


_KEYWORDS = {"session_class": "class"}
"""JSON names that Python does not allow."""


def _field_name(name: str) -> str:
    """Convert `session_id` to `sessionID`: Kubernetes writes ID and TTL in capitals."""
    if name in _KEYWORDS:
        return _KEYWORDS[name]
    return re.sub(r"Id(s?)$", r"ID\1", to_camel(name).replace("Ttl", "TTL"))


class Model(BaseModel):
    """Base of the resource's parts. JSON names are camelCase; fields of newer versions are ignored."""

    model_config = ConfigDict(
        alias_generator=_field_name, populate_by_name=True, extra="ignore", use_enum_values=False
    )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, without absent fields."""
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
    """Options of the sandbox. They take effect with the next sandbox, unless stated otherwise.

    A field that is None (or an empty map) is not set: the session's class or the settings provide its value.
    """

    template: str | None = None
    timeout_seconds: int | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    network: NetworkSpec | None = None
    auto_resume: bool | None = None
    allow_public_traffic: bool | None = None


class WorkerSpec(Model):
    """Options of the worker. They take effect with its next start."""

    max_idle_seconds: int | None = None
    attach_timeout_seconds: int | None = None
    log_level: str | None = None


class LifecycleSpec(Model):
    """When the session's sandbox is paused, kept and deleted. Changes take effect at once."""

    suspend: bool | None = None
    idle_ttl_seconds: int | None = None
    ttl_seconds_after_end: int | None = None
    on_sandbox_lost: OnSandboxLost | None = None


class RoutingSpec(Model):
    """Scope of a sandbox. `session` is the only scope."""

    scope: str = "session"


class Spec(Model):
    """Identity and policy of a session."""

    session_id: str
    environment_id: str | None = None
    agent_id: str | None = None
    routing: RoutingSpec = Field(default_factory=RoutingSpec)
    sandbox: SandboxSpec = Field(default_factory=SandboxSpec)
    worker: WorkerSpec = Field(default_factory=WorkerSpec)
    lifecycle: LifecycleSpec = Field(default_factory=LifecycleSpec)


class EventStatus(Model):
    """The newest webhook event about the session. Only the webhook writes it."""

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
    """E2B's `startedAt` of the running period that the newest pause saved. Later periods have later ones."""
    missing_skills: list[str] = Field(default_factory=list)
    """Skills of the agent that the newest turn runs without, each with the cause."""
    saved_at: Timestamp | None = None
    """Time of the newest pause, by E2B's clock (`endAt`). Later pauses have later times."""
    vanished: list[str] = Field(default_factory=list)
    """IDs of sandboxes with files of the session that E2B reported as missing."""
    attempt: int = 0
    """Number of requested sandboxes. Written before each create; part of its idempotency key."""
    created_with: dict[str, str] | None = None
    """Fingerprints of the policy fields of the sandbox's creation, by PolicyField. None without a class."""


class WorkStatus(Model):
    """The current or most recent claim on the session's work item."""

    id: str | None = None
    claim: str | None = None
    offered_at: Timestamp | None = None
    acknowledged_at: Timestamp | None = None
    started_at: Timestamp | None = None
    """Since when the claim's worker has been starting. The wait for its first heartbeat counts from here."""
    first_heartbeat_at: Timestamp | None = None
    serving_late_since: Timestamp | None = None
    """Since when the worker has been serving a message that arrived while its work was stopped."""
    awaiting_user_since: Timestamp | None = None
    """Since when the worker has been waiting for nothing but the session's user."""
    finished_at: Timestamp | None = None
    exit_reason: str | None = None
    stop_reason: str | None = None
    """Anthropic's stop reason of the turn, if it was known when the turn's end was recorded."""
    attempts: int = 0
    """Number of worker starts for this claim."""
    quick_returns: int = 0
    """Number of consecutive times that work arrived within `maxIdleSeconds` after a turn's end."""


class RecoveryStatus(Model):
    """Recovery of a session whose turn may not be over although no worker serves it."""

    suspected_at: Timestamp | None = None
    """When a claim ended before the turn was known to be over."""
    checked_at: Timestamp | None = None
    """When the session was last seen to need no worker. Settles everything suspected or announced earlier."""
    attempts: int = 0
    """Number of consecutive recovery attempts that did not end the turn."""
    checked_end_event: str | None = None
    """The ID of the end event about which Anthropic answered that the session goes on."""


class CallDeathsStatus(Model):
    """A tool call of the current turn that ended its workers."""

    id: str
    tool: str = ""
    deaths: int
    """Number of workers that ended during the call, in all sandboxes of the session."""
    cause: str = ""
    """What ended the last of them."""


class PolicyField(StrEnum):
    """The fields of the policy that have an origin and that a class may lock, by their JSON names."""

    TEMPLATE = "template"
    TIMEOUT_SECONDS = "timeoutSeconds"
    METADATA = "metadata"
    ENV = "env"
    NETWORK = "network"
    AUTO_RESUME = "autoResume"
    ALLOW_PUBLIC_TRAFFIC = "allowPublicTraffic"
    MAX_IDLE_SECONDS = "maxIdleSeconds"
    ATTACH_TIMEOUT_SECONDS = "attachTimeoutSeconds"
    LOG_LEVEL = "logLevel"
    IDLE_TTL_SECONDS = "idleTTLSeconds"
    TTL_SECONDS_AFTER_END = "ttlSecondsAfterEnd"
    ON_SANDBOX_LOST = "onSandboxLost"


class ClassReference(Model):
    """The class that serves the session. Recorded before the first effect that depends on it."""

    name: str
    uid: str | None = None
    generation: int


class DailyActivity(Model):
    """For how long sandboxes were active on one day."""

    day: str
    """The day in UTC, as YYYY-MM-DD."""
    seconds: int = 0


class EffectiveStatus(Model):
    """The policy in force: the spec, completed by the session's class and the operator's settings.

    The fields that may be None are absent unless a class serves the session.
    """

    template: str
    timeout_seconds: int
    max_idle_seconds: int
    attach_timeout_seconds: int
    log_level: str
    idle_ttl_seconds: int
    ttl_seconds_after_end: int
    on_sandbox_lost: OnSandboxLost
    metadata: dict[str, str] | None = None
    env: dict[str, str] | None = None
    network: NetworkSpec | None = None
    auto_resume: bool | None = None
    allow_public_traffic: bool | None = None
    origins: dict[str, str] | None = None
    """Where each field's value comes from, by PolicyField: `session`, `class/NAME@GENERATION` or `settings`.

    `metadata` and `env` are merged entry by entry. If several layers add to them, their origins are joined by
    `+`, the one that takes precedence first: `session+class/gold@7`.
    """


class Condition(Model):
    """A condition in Kubernetes' standard form."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str = ""
    last_transition_time: Timestamp
    observed_generation: int | None = None


class ConditionedStatus(Model):
    """What the status of both kinds has: conditions, and up to which generation they apply."""

    observed_generation: int | None = None
    conditions: list[Condition] = Field(default_factory=list)

    def condition(self, type_: ConditionType) -> Condition | None:
        """Return the condition of this type, or None."""
        return next((c for c in self.conditions if c.type == type_), None)


class Status(ConditionedStatus):
    """The observed state. The webhook writes `lastEvent`, and the operator everything else."""

    phase: Phase | None = None
    last_event: EventStatus | None = None
    sandbox: SandboxStatus = Field(default_factory=SandboxStatus)
    work: WorkStatus = Field(default_factory=WorkStatus)
    recovery: RecoveryStatus = Field(default_factory=RecoveryStatus)
    call_deaths: list[CallDeathsStatus] | None = None
    """Normally absent; removed when a worker ends normally."""
    session_class: ClassReference | None = None
    effective: EffectiveStatus | None = None
    active_today: DailyActivity | None = None
    """Counted only while a class serves the session, for the class's daily budget."""
    turns: int = 0
    last_active_time: Timestamp | None = None
    ended_at: Timestamp | None = None


class Metadata(Model):
    """The part of `metadata` that is used here."""

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
    """A ManagedSession resource."""

    metadata: Metadata
    spec: Spec
    status: Status = Field(default_factory=Status)

    @property
    def identity(self) -> str:
        """Identity in the metadata of its sandboxes. Unlike the UID, it survives a restore from a backup."""
        return names.identity({"annotations": self.metadata.annotations, "uid": self.metadata.uid})

    @property
    def may_be_restored(self) -> bool:
        """Whether its sandboxes may be older than itself: it was restored, or the operator created it."""
        return self.identity != self.metadata.uid
