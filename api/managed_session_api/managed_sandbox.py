"""Models a ManagedSandbox: a sandbox that several sessions share, and what is known of it.

Field names in JSON are camelCase. `crds/managedsandboxes.yaml` describes each field for `kubectl explain`; a
test compares the two. Only the operator creates, changes and removes these resources.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from managed_session_api import names
from managed_session_api.resource import ConditionedStatus, Metadata, Model, Scope, Timestamp


class SharedScope(StrEnum):
    """The scopes in which several sessions have one sandbox."""

    AGENT = Scope.AGENT.value
    ENVIRONMENT = Scope.ENVIRONMENT.value


class SharedState(StrEnum):
    """`status.state`."""

    CREATING = "Creating"
    RUNNING = "Running"
    PAUSED = "Paused"
    LOST = "Lost"


class ManagedSandboxSpec(Model):
    """Whose sandbox this is. All of it is in the resource's name."""

    scope: SharedScope
    key: str
    """The ID of the agent or of the environment."""
    environment_id: str
    session_class: str | None = None
    """The class of all its sessions; None if they have none."""


class ManagedSandboxStatus(ConditionedStatus):
    """The shared sandbox in E2B. Only the operator writes it."""

    id: str | None = None
    state: SharedState | None = None
    attempt: int = 0
    """Number of requested sandboxes. Written before each create; part of its idempotency key."""
    template_id: str | None = None
    started_at: Timestamp | None = None
    sessions: int = 0
    """Number of ManagedSessions that refer to it."""
    created_with: dict[str, str] | None = None
    """As `SandboxStatus.created_with`."""
    vanished: list[str] = Field(default_factory=list)
    """IDs of sandboxes with files of its sessions that E2B reported as missing."""
    departed: list[str] = Field(default_factory=list)
    """Keys of deleted sessions whose files are removed when the sandbox runs next."""


class ManagedSandbox(Model):
    """A ManagedSandbox resource."""

    metadata: Metadata
    spec: ManagedSandboxSpec
    status: ManagedSandboxStatus = Field(default_factory=ManagedSandboxStatus)

    @property
    def identity(self) -> str:
        """Identity in the metadata of its sandboxes. Unlike the UID, it survives a restore from a backup."""
        return names.identity({"annotations": self.metadata.annotations, "uid": self.metadata.uid})
