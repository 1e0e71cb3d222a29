"""Models a ManagedSessionClass: which sessions it serves, with which policy, and within which limits.

Field names in JSON are camelCase. `crds/managedsessionclasses.yaml` describes each field for `kubectl
explain`; a test compares the two.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from managed_session_api.resource import (
    ConditionedStatus,
    DailyActivity,
    LifecycleSpec,
    Metadata,
    Model,
    RoutingSpec,
    SandboxSpec,
    WorkerSpec,
)


class MatchOperator(StrEnum):
    """How a match expression compares a key's value, as in Kubernetes' label selectors."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class MatchExpression(Model):
    """A set-based requirement. As in Kubernetes, `NotIn` also matches where the key is absent."""

    key: str
    operator: MatchOperator
    values: list[str] = Field(default_factory=list)


class MetadataSelector(Model):
    """Selects by the metadata of Anthropic's session. All labels and all expressions must match."""

    match_labels: dict[str, str] = Field(default_factory=dict)
    match_expressions: list[MatchExpression] = Field(default_factory=list)


class ClassSelector(Model):
    """Which sessions the class is for. All parts that are set must match; in a list, one entry is enough."""

    agent_ids: list[str] = Field(default_factory=list)
    agent_names: list[str] = Field(default_factory=list)
    environment_id: str | None = None
    session_metadata: MetadataSelector | None = None


class SessionDefaults(Model):
    """The part of a session's spec that a class may set. Has the same schema as there."""

    routing: RoutingSpec = Field(default_factory=RoutingSpec)
    sandbox: SandboxSpec = Field(default_factory=SandboxSpec)
    worker: WorkerSpec = Field(default_factory=WorkerSpec)
    lifecycle: LifecycleSpec = Field(default_factory=LifecycleSpec)


class ClassLimits(Model):
    """What the sessions of the class may use, together or each. None means no limit."""

    max_active_sandboxes: int | None = None
    guaranteed_slots: int = 0
    weight: int = 1
    max_turn_seconds: int | None = None
    max_active_seconds_per_day: int | None = None
    """For all sessions of the class together, per day in UTC."""


class ClassSpec(Model):
    """Selection, policy and limits of a class."""

    selector: ClassSelector | None = None
    """None: the class is the default of its namespace, for sessions that no class with a selector matches."""
    precedence: int = 0
    """Of several matching classes, the one with the highest precedence serves the session."""
    session: SessionDefaults = Field(default_factory=SessionDefaults)
    locked: list[str] = Field(default_factory=list)
    """Fields that a session may not set, by their PolicyField names. Unknown names lock nothing."""
    limits: ClassLimits = Field(default_factory=ClassLimits)


class ClassActivity(DailyActivity):
    """For how long the sessions of a class were active on one day, together."""

    departed_seconds: int = 0
    """The part of `seconds` of sessions that no longer exist or that another class serves now."""


class ClassStatus(ConditionedStatus):
    """The observed state of a class. Only the operator writes it."""

    sessions: int = 0
    active_sandboxes: int = 0
    waiting: int = 0
    active_today: ClassActivity | None = None
    outranked_by: list[str] | None = None
    """Names of the classes that may be chosen instead for a session of this one. None: not known yet."""


class ManagedSessionClass(Model):
    """A ManagedSessionClass resource."""

    metadata: Metadata
    spec: ClassSpec = Field(default_factory=ClassSpec)
    status: ClassStatus = Field(default_factory=ClassStatus)

    @property
    def origin(self) -> str:
        """The name of this version of the class in `status.effective.origins`, for example `class/gold@7`."""
        return f"class/{self.metadata.name}@{self.metadata.generation}"
