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


OPAQUE = "x-kubernetes-preserve-unknown-fields"
"""Marks a field that the CRD does not describe again, because its values were validated elsewhere."""


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


class NetworkPreset(StrEnum):
    """What the sandbox may reach before `allow` and `deny` are looked at."""

    OPEN = "open"
    """Everything that `deny` does not list."""
    ALLOWLIST = "allowlist"
    """What `allow` lists, the hosts of `secrets`, and what the worker needs."""
    CLOSED = "closed"
    """What the worker needs: Anthropic, through the proxy if there is one."""


class DeletionPolicy(StrEnum):
    """What happens to the session's files when its resource is deleted."""

    DELETE = "Delete"
    RETAIN = "Retain"


class SnapshotsSpec(Model):
    """Which snapshots of the sandbox are taken without being asked for, and how many are kept."""

    after_each_turn: bool = False
    keep_last: int = 3


class NetworkSpec(Model):
    """Egress rules of the sandbox (E2B `network.allowOut` and `network.denyOut`)."""

    preset: NetworkPreset | None = None
    allow: list[str] = Field(default_factory=list)
    deny: list[str] = Field(default_factory=list)


class KeyReference(Model):
    """A key of a Secret or a ConfigMap in the resource's namespace."""

    name: str
    key: str


class RepositoryCredential(Model):
    """How a repository is read: a token for HTTPS, or a private key for SSH."""

    secret_ref: KeyReference
    username: str | None = None
    known_hosts: str | None = None


class SetupRepository(Model):
    """A git repository that is cloned into the sandbox."""

    url: str
    ref: str | None = None
    path: str | None = None
    depth: int | None = None
    credential: RepositoryCredential | None = None


class SetupFile(Model):
    """A file that is written into the sandbox, from exactly one source."""

    path: str
    mode: str | None = None
    config_map: KeyReference | None = None
    secret: KeyReference | None = None
    url: str | None = None
    sha256: str | None = None


class MetadataPolicy(StrEnum):
    """Whether the metadata of Anthropic's session may name a repository and a file."""

    ALLOW = "Allow"
    DENY = "Deny"


class MetadataCredential(RepositoryCredential):
    """A credential for repositories that a session's metadata names, below a URL."""

    url_prefix: str


class SessionMetadataSetup(Model):
    """What the metadata of Anthropic's session may ask for. Whoever creates the session chooses them."""

    policy: MetadataPolicy | None = None
    url_prefixes: list[str] = Field(default_factory=list)
    """If there are any, a URL must begin with one of them."""
    credentials: list[MetadataCredential] = Field(default_factory=list)


class SetupSpec(Model):
    """What the sandbox starts with. Done once in each sandbox, unless `rerun_on_change` is set."""

    repositories: list[SetupRepository] = Field(default_factory=list)
    files: list[SetupFile] = Field(default_factory=list)
    script: str | None = None
    timeout_seconds: int | None = None
    rerun_on_change: bool | None = None
    from_session_metadata: SessionMetadataSetup | None = None


class HookSpec(Model):
    """A command that runs as the agent's user."""

    command: str
    timeout_seconds: int | None = None


class HooksSpec(Model):
    """Commands at certain moments of a sandbox's life."""

    on_create: HookSpec | None = None
    after_resume: HookSpec | None = None
    before_pause: HookSpec | None = None
    before_kill: HookSpec | None = None


class SecretReference(Model):
    """A Secret in the session's namespace. Which keys it needs depends on the field that refers to it."""

    name: str


class Volume(Model):
    """An E2B volume that a sandbox gets with its creation."""

    name: str
    path: str
    create: bool = False


class BucketType(StrEnum):
    """Kinds of object storage."""

    S3 = "S3"
    GCS = "GCS"
    R2 = "R2"


class Bucket(Model):
    """Object storage that is mounted in the sandbox."""

    type: BucketType
    bucket: str
    path: str
    prefix: str | None = None
    endpoint: str | None = None
    region: str | None = None
    read_only: bool = False
    secret_ref: SecretReference | None = None
    uid: int | None = None
    gid: int | None = None


class ArchilDisk(Model):
    """An Archil disk that is mounted in the sandbox."""

    disk: str
    region: str
    path: str
    secret_ref: SecretReference
    shared: bool = False
    read_only: bool = False


class OutputsSpec(Model):
    """Where the files of the agent's outputs folder are copied to when a turn ends."""

    bucket_path: str
    prefix: str | None = None


class SecretHeader(Model):
    """A header that E2B adds, outside the sandbox, to the sandbox's requests to a host."""

    host: str
    header: str
    prefix: str = ""
    secret_ref: KeyReference


class SecretVariable(Model):
    """An environment variable of the agent's commands whose value is in a Secret. The agent can read it."""

    name: str
    secret_ref: KeyReference


class AuthoritySource(Model):
    """Where certificates of authorities come from. Exactly one of the three is set."""

    pem: str | None = None
    config_map_ref: KeyReference | None = None
    secret_ref: KeyReference | None = None


class TrustSpec(Model):
    """Certificate authorities that the sandbox trusts beside those of its image."""

    certificate_authorities: list[AuthoritySource] = Field(default_factory=list)


class ProxySpec(Model):
    """Forward proxies of the agent's commands and of the worker's own connection."""

    http_proxy: str | None = None
    https_proxy: str | None = None
    no_proxy: list[str] = Field(default_factory=list)
    credential_secret_ref: KeyReference | None = None


class SandboxSpec(Model):
    """Options of the sandbox. They take effect with the next sandbox, unless stated otherwise.

    A field that is None (or an empty map) is not set: the session's class or the settings provide its value.
    """

    template: str | None = None
    from_snapshot: str | None = None
    timeout_seconds: int | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    env_from: list[SecretVariable] | None = None
    network: NetworkSpec | None = None
    secrets: list[SecretHeader] | None = None
    trust: TrustSpec | None = None
    proxy: ProxySpec | None = None
    auto_resume: bool | None = None
    allow_public_traffic: bool | None = None
    setup: SetupSpec | None = None
    hooks: HooksSpec | None = None
    volumes: list[Volume] | None = None
    buckets: list[Bucket] | None = None
    archil: list[ArchilDisk] | None = None
    outputs: OutputsSpec | None = None


class WorkerSpec(Model):
    """Options of the worker. They take effect with its next start."""

    max_idle_seconds: int | None = None
    min_idle_seconds: int | None = None
    attach_timeout_seconds: int | None = None
    pause_while_waiting_seconds: int | None = None
    """How long a worker waits for its session's user before its sandbox is paused. 0: never."""
    max_parallel_calls: int | None = None
    log_level: str | None = None


class LifecycleSpec(Model):
    """When the session's sandbox is paused, kept and deleted. Changes take effect at once."""

    suspend: bool | None = None
    idle_ttl_seconds: int | None = None
    ttl_seconds_after_end: int | None = None
    on_sandbox_lost: OnSandboxLost | None = None
    deletion_policy: DeletionPolicy | None = None
    snapshots: SnapshotsSpec | None = None


class RestoreRequest(Model):
    """A request to bring the sandbox back to a snapshot. A request with a known ID is not served again."""

    id: str
    snapshot_id: str


class RequestsSpec(Model):
    """What is asked for once. `status.requests` says what was served."""

    snapshot: str | None = None
    restore: RestoreRequest | None = None
    retry: str | None = None


class Scope(StrEnum):
    """Which sessions use one sandbox together."""

    SESSION = "session"
    """None: each session has its own."""
    AGENT = "agent"
    """The sessions of one agent, as far as they have the same class."""
    ENVIRONMENT = "environment"
    """The sessions of the environment, as far as they have the same class."""


class RoutingSpec(Model):
    """What shares one sandbox. Takes effect with the next sandbox."""

    scope: Scope | None = None


class Spec(Model):
    """Identity and policy of a session."""

    session_id: str
    environment_id: str | None = None
    agent_id: str | None = None
    routing: RoutingSpec = Field(default_factory=RoutingSpec)
    sandbox: SandboxSpec = Field(default_factory=SandboxSpec)
    worker: WorkerSpec = Field(default_factory=WorkerSpec)
    lifecycle: LifecycleSpec = Field(default_factory=LifecycleSpec)
    requests: RequestsSpec = Field(default_factory=RequestsSpec)


class EventStatus(Model):
    """The newest webhook event about the session. Only the webhook writes it."""

    id: str
    type: str
    created_at: Timestamp
    received_at: Timestamp | None = None
    """When the webhook received it, by its own clock."""


class SandboxState(StrEnum):
    """`status.sandbox.state`."""

    CREATING = "Creating"
    RUNNING = "Running"
    PAUSED = "Paused"
    LOST = "Lost"


class ReplacedSandbox(Model):
    """A sandbox that a restore is about to replace, with what `SandboxStatus` says of it."""

    id: str
    from_snapshot: str | None = None
    unclean: bool | None = None


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
    vcpus: int | None = None
    memory_mib: int | None = None
    """Its size as of its newest pause."""
    vanished: list[str] = Field(default_factory=list)
    """IDs of sandboxes with files of the session that E2B reported as missing."""
    attempt: int = 0
    """Number of requested sandboxes. Written before each create; part of its idempotency key."""
    egress: str | None = None
    """Which network rules and versions of Secrets the sandbox has. "": not known, so they are sent again.
    None: it has none with a Secret."""
    created_with: dict[str, str] | None = None
    """Fingerprints of the policy fields of the sandbox's creation, by PolicyField. None without a class."""
    from_snapshot: str | None = None
    """The snapshot that the newest attempt creates its sandbox from. Written with the attempt."""
    unclean: bool | None = None
    """Whether the sandbox may have processes and records of another session, from whose snapshot it came."""
    equipped: bool | None = None
    """Whether authorities were added or storage was mounted in the sandbox. Written before that, and removed
    once it is undone, because the policy no longer asks for it."""
    replaces: ReplacedSandbox | None = None
    """The sandbox that a restore is about to replace. It is killed once the new one is recorded."""
    shared_by: str | None = None
    """The ManagedSandbox whose sandbox the session shares. Written before anything is created for it."""


class StageStatus(Model):
    """A stage of a turn that is over, such as the creation of its sandbox."""

    name: str
    started_at: Timestamp
    ended_at: Timestamp


class TraceStatus(Model):
    """The trace of a turn, if traces are on."""

    traceparent: str
    """W3C Trace Context of its root span. Written with the claim; all span IDs are derived from it."""
    stages: list[StageStatus] = Field(default_factory=list)
    """What is known of the turn's course, so that the next leader can send it."""


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
    awaited_answers: list[str] | None = None
    """What the user has to answer, in words."""
    wait_paused_at: Timestamp | None = None
    """When the operator decided to pause the sandbox because of that wait. None while the worker may run."""
    wait_resumed_at: Timestamp | None = None
    """When the sandbox was last resumed under the claim's worker, because its user had answered."""
    finished_at: Timestamp | None = None
    exit_reason: str | None = None
    stop_reason: str | None = None
    """Anthropic's stop reason of the turn, if it was known when the turn's end was recorded."""
    attempts: int = 0
    """Number of worker starts for this claim."""
    quick_returns: int = 0
    """Number of consecutive times that work arrived within `maxIdleSeconds` after a turn's end."""
    return_balance: int | None = None
    """Quick returns minus late ones, within bounds. Below 0 the worker waits `minIdleSeconds`.

    None: unknown, because the first turn has not ended, or the sandbox has a worker that reports no returns.
    """
    trace: TraceStatus | None = None
    """None unless traces are on."""


class SnapshotStatus(Model):
    """A snapshot of the session's sandbox, or one that is being taken."""

    name: str
    """Its name in E2B. Written before the request, so that a snapshot of a lost answer is found again."""
    id: str | None = None
    """E2B's ID. None while it is being taken."""
    requested: str | None = None
    """The name under which it was asked for. None if the policy or a deletion has led to it."""
    sandbox_id: str
    claim: str | None = None
    """The newest claim whose worker had ended."""
    turn: int = 0
    """Number of the newest turn whose files it has."""
    taken_at: Timestamp | None = None


class RequestsStatus(Model):
    """The requests of the spec that were served."""

    snapshot: str | None = None
    restore: str | None = None
    retry: str | None = None


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

    SCOPE = "scope"
    TEMPLATE = "template"
    FROM_SNAPSHOT = "fromSnapshot"
    TIMEOUT_SECONDS = "timeoutSeconds"
    METADATA = "metadata"
    ENV = "env"
    ENV_FROM = "envFrom"
    NETWORK = "network"
    SECRETS = "secrets"
    TRUST = "trust"
    PROXY = "proxy"
    AUTO_RESUME = "autoResume"
    ALLOW_PUBLIC_TRAFFIC = "allowPublicTraffic"
    SETUP = "setup"
    HOOKS = "hooks"
    VOLUMES = "volumes"
    BUCKETS = "buckets"
    ARCHIL = "archil"
    OUTPUTS = "outputs"
    MAX_IDLE_SECONDS = "maxIdleSeconds"
    MIN_IDLE_SECONDS = "minIdleSeconds"
    ATTACH_TIMEOUT_SECONDS = "attachTimeoutSeconds"
    PAUSE_WHILE_WAITING_SECONDS = "pauseWhileWaitingSeconds"
    MAX_PARALLEL_CALLS = "maxParallelCalls"
    LOG_LEVEL = "logLevel"
    IDLE_TTL_SECONDS = "idleTTLSeconds"
    TTL_SECONDS_AFTER_END = "ttlSecondsAfterEnd"
    ON_SANDBOX_LOST = "onSandboxLost"
    DELETION_POLICY = "deletionPolicy"
    SNAPSHOTS = "snapshots"


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


class CostOfDay(Model):
    """What the session cost on one day: what was recorded on it."""

    day: str
    """The day in UTC, as YYYY-MM-DD."""
    list_cost: str = "0"
    active_seconds: int = 0
    sandbox_seconds: int = 0


class CostStatus(Model):
    """What the session has cost until its newest turn's end or pause. It never shrinks.

    Amounts are in the currency's minor units (cents), as Anthropic's are.
    """

    total: str | None = None
    """`listCost` and `sandboxCost` together, for people: `$1.26`."""
    currency: str | None = None
    list_cost: str | None = None
    """Anthropic's `usage.list_cost`."""
    budget: str | None = None
    """Anthropic's `budget.max_list_cost`. None: the session has no budget."""
    active_seconds: int = 0
    """Anthropic's `usage.active_seconds`."""
    sandbox_seconds: int = 0
    """For how long the session's sandboxes have run, by E2B's times of their running periods."""
    vcpu_seconds: int | None = None
    memory_mib_seconds: int | None = None
    """`sandboxSeconds` times the sizes of the sandboxes. None: E2B has not reported any size yet."""
    sandbox_cost: str | None = None
    """An estimate. None: the operator knows no price, or no size."""
    counted_until: Timestamp | None = None
    """Until when running periods are in `sandboxSeconds`. No second before it is counted again."""
    days: list[CostOfDay] = Field(default_factory=list)
    """Oldest first."""


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
    env_from: list[SecretVariable] | None = None
    network: NetworkSpec | None = None
    secrets: list[SecretHeader] | None = None
    trust: TrustSpec | None = None
    proxy: ProxySpec | None = None
    auto_resume: bool | None = None
    allow_public_traffic: bool | None = None
    min_idle_seconds: int | None = None
    pause_while_waiting_seconds: int | None = None
    setup: Annotated[SetupSpec | None, OPAQUE] = None
    hooks: Annotated[HooksSpec | None, OPAQUE] = None
    volumes: list[Volume] | None = None
    buckets: list[Bucket] | None = None
    archil: list[ArchilDisk] | None = None
    outputs: OutputsSpec | None = None
    max_parallel_calls: int | None = None
    from_snapshot: str | None = None
    deletion_policy: DeletionPolicy | None = None
    snapshots: SnapshotsSpec | None = None
    scope: Scope | None = None
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
    snapshots: list[SnapshotStatus] = Field(default_factory=list)
    """Oldest first."""
    requests: RequestsStatus = Field(default_factory=RequestsStatus)
    call_deaths: list[CallDeathsStatus] | None = None
    """Normally absent; removed when a worker ends normally."""
    session_class: ClassReference | None = None
    effective: EffectiveStatus | None = None
    active_today: DailyActivity | None = None
    """Counted only while a class serves the session, for the class's daily budget."""
    cost: CostStatus | None = None
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
    def session_key(self) -> str:
        """What names the session within a sandbox that it shares."""
        return names.session_key(self.identity, self.spec.session_id)

    @property
    def may_be_restored(self) -> bool:
        """Whether its sandboxes may be older than itself: it was restored, or the operator created it."""
        return self.identity != self.metadata.uid
