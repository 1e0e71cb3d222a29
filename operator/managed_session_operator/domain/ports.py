"""Defines what the steps need of the outside, as narrow protocols. `clients/` implements them.

The tests implement them in memory. Every call may raise `OperationError`, `NotLeadingError` if this process
may not send the effect, and `CredentialError` if a key is missing. Each port names what else it raises.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol

from managed_session_api.conditions import Reason
from managed_session_api.managed_sandbox import ManagedSandbox, ManagedSandboxSpec
from managed_session_api.resource import ManagedSession
from managed_session_worker.protocol import StartRequest
from pydantic import SecretStr

from managed_session_operator.domain.offer import Offer
from managed_session_operator.domain.preparation import Report
from managed_session_operator.domain.references import ReferencedValue
from managed_session_operator.domain.sandbox import SandboxNetwork, SandboxRequest, SandboxView
from managed_session_operator.domain.session import SessionView, SkillReference, SkillVersion
from managed_session_operator.domain.skills import Bounds, Installed, Upload
from managed_session_operator.domain.span import Span
from managed_session_operator.domain.turn import Turn
from managed_session_operator.domain.values import Reference
from managed_session_operator.domain.work_item import HealthCheck, WorkItem, WorkList
from managed_session_operator.domain.worker_run import WorkerRun

Body = dict[str, Any]
"""A resource, or a part of one, as JSON."""


class Clock(Protocol):
    """The time."""

    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        ...

    def monotonic(self) -> float:
        """Return the time of a monotonic clock in seconds, for delays within this process."""
        ...


class WorkQueue(Protocol):
    """The environment's work queue."""

    @property
    def environment_id(self) -> str:
        """The environment that this installation serves."""
        ...

    @property
    def environment_key(self) -> SecretStr:
        """The environment key, for sandboxes that are allowed to have it."""
        ...

    @property
    def base_url(self) -> str:
        """The URL at which workers reach Anthropic."""
        ...

    def key_lines(self) -> tuple[SecretStr, ...]:
        """Return all lines of the environment key's file, to notice a change."""
        ...

    async def poll(self, *, block_ms: int, reclaim_ms: int) -> Offer | HealthCheck | None:
        """Ask for one item. Return None if the queue is empty."""
        ...

    async def acknowledge(self, work_id: str) -> bool:
        """Take the item off the queue. Return whether it is ours to serve."""
        ...

    async def stop(self, work_id: str) -> None:
        """Force-stop the item. Does nothing if it is stopped or gone."""
        ...

    async def stop_held(self, work_id: str) -> None:
        """Force-stop the item of an acknowledged claim, unless it has ended or is queued again."""
        ...

    async def items(self) -> WorkList:
        """Return the environment's work list."""
        ...

    async def item(self, work_id: str) -> WorkItem | None:
        """Return the item from the work list; None if it is not in the list."""
        ...

    async def state(self, work_id: str) -> str | None:
        """Return the item's state in the work list; None if it is not in the list."""
        ...

    async def workers_polling(self) -> int | None:
        """Return how many workers have polled the queue recently; None if Anthropic does not say."""
        ...


class Sessions(Protocol):
    """The environment's sessions, as far as the environment key may read them."""

    async def session(self, session_id: str) -> SessionView | None:
        """Return the session; None if there is none (any more)."""
        ...

    async def has_message(self, session_id: str) -> bool | None:
        """Return whether the session has had a message; None if there is no such session."""
        ...

    async def turn(self, session_id: str) -> Turn | None:
        """Return the state of the session's newest turn; None if there is no such session."""
        ...

    async def turn_began(self, session_id: str, *, before: datetime) -> datetime | None:
        """Return when the session's open turn began, or some time of it from before `before`.

        None if no turn is open, or there is no such session.
        """
        ...


class WorkspaceSessions(Protocol):
    """What an API key of the workspace allows, if one is configured."""

    @property
    def possible(self) -> bool:
        """Whether an API key is configured."""
        ...

    async def interrupt(self, session_id: str) -> None:
        """Send `user.interrupt`."""
        ...

    async def living(self) -> set[str]:
        """Return the IDs of all sessions that have not ended."""
        ...


class SkillArchives(Protocol):
    """The skills of agents, as Anthropic keeps them."""

    async def resolve(self, reference: SkillReference) -> SkillVersion:
        """Return the version to which the reference points."""
        ...

    def open(
        self, version: SkillVersion, *, seconds: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open the archive, to read it in chunks."""
        ...

    def forget(self, version: SkillVersion) -> None:
        """Take note that the archive could not be unpacked, so that no cache delivers it again."""
        ...


class SandboxHandle(Protocol):
    """A sandbox to which this process is connected. Only its client knows what else it can do.

    A session of a shared sandbox has a `SessionHandle` of it.
    """

    @property
    def sandbox_id(self) -> str:
        """The sandbox's ID."""
        ...


class Sandboxes(Protocol):
    """The sandboxes of this installation.

    A call that takes long raises UnderWayError and stays open. The next call of its kind waits for it again.
    """

    def key_lines(self) -> tuple[SecretStr, ...]:
        """Return all lines of the API key's file, to notice a change."""
        ...

    async def create(self, request: SandboxRequest, idempotency_key: str) -> SandboxHandle:
        """Create a sandbox, or return the one that this key has already created (raises UnderWayError)."""
        ...

    def creating(self, idempotency_key: str) -> bool:
        """Return whether a create with this key is under way."""
        ...

    async def give_up_create(self, idempotency_key: str) -> None:
        """Cancel the create with this key, if one is under way."""
        ...

    async def connect(self, sandbox_id: str, timeout_seconds: int, *, reboot: bool = False) -> SandboxHandle:
        """Resume the sandbox, or connect to it if it runs. Restart its countdown (raises UnderWayError)."""
        ...

    async def info(self, sandbox_id: str) -> SandboxView | None:
        """Return the sandbox without resuming it; None if it is gone."""
        ...

    async def pause(self, sandbox_id: str, *, strict: bool = True) -> SandboxView | None:
        """Pause the sandbox and confirm it. Return None if it is gone (raises UnderWayError)."""
        ...

    async def kill(self, sandbox_id: str) -> bool:
        """Kill the sandbox. Return whether it existed."""
        ...

    async def extend(self, sandbox_id: str, timeout_seconds: int) -> None:
        """Restart the running sandbox's countdown."""
        ...

    async def update_network(self, sandbox_id: str, network: SandboxNetwork) -> None:
        """Replace the running sandbox's rules for egress."""
        ...

    async def list(self, metadata: Mapping[str, str]) -> list[SandboxView]:
        """Return all sandboxes whose metadata has these pairs."""
        ...

    def pages(
        self, metadata: Mapping[str, str], *, running_only: bool = False
    ) -> AsyncIterator[Sequence[SandboxView]]:
        """Yield the same sandboxes page by page."""
        ...


class KeptSnapshots(Protocol):
    """Snapshots of sandboxes, which outlive them."""

    async def take(self, sandbox_id: str, name: str) -> str:
        """Take a snapshot of the running sandbox. Return E2B's ID of it (raises UnderWayError)."""
        ...

    def taking(self, sandbox_id: str, name: str) -> bool:
        """Return whether this process is taking the snapshot of this name."""
        ...

    async def find(self, name: str) -> str | None:
        """Return the ID of the snapshot of this name; None if there is none."""
        ...

    async def delete(self, snapshot_id: str) -> bool:
        """Delete the snapshot. Return False if it stays, because a sandbox was created from it."""
        ...


class SandboxCleaning(Protocol):
    """What another session has left in a sandbox that was created from that session's snapshot."""

    async def clean(self, sandbox: SandboxHandle) -> None:
        """End the other session's processes and remove its records, but not its files."""
        ...


class SandboxSkills(Protocol):
    """The skills in one sandbox."""

    async def installed(self) -> dict[str, Installed]:
        """Return the skills that the sandbox has, by skill ID."""
        ...

    async def clear(self) -> None:
        """Remove what an interrupted upload has left."""
        ...

    async def add(self, upload: Upload, chunk: bytes) -> None:
        """Upload the next part of an archive."""
        ...

    async def unpack(
        self, uploads: Sequence[Upload], bounds: Bounds, remove: Sequence[str] = ()
    ) -> dict[str, str]:
        """Unpack uploaded archives and remove directories. Return why archives were refused, by key."""
        ...

    async def record(self, installed: Mapping[str, Installed]) -> None:
        """Record in the sandbox which skills it has."""
        ...


class SandboxPreparations(Protocol):
    """Preparations of connected sandboxes."""

    async def prepare(self, sandbox: SandboxHandle, plan: Mapping[str, Any], *, purpose: str = "") -> Report:
        """Run the plan in the sandbox, or join its running preparation (raises UnderWayError).

        Preparations of different purposes do not join each other.
        """
        ...


class ReferencedValues(Protocol):
    """Values of Secrets and ConfigMaps of the sessions' namespace."""

    async def read(self, reference: Reference) -> SecretStr:
        """Return the value. Raises OperationError if there is none that may be used."""
        ...

    async def read_version(self, reference: Reference, *, fresh: bool) -> ReferencedValue:
        """Return the value with its version; if not `fresh`, of a few seconds ago. Raises as `read`."""
        ...


class WorkerStreams(Protocol):
    """Workers in sandboxes, and their event streams: at most one stream per resource."""

    def get(self, name: str, claim: str | None) -> WorkerRun | None:
        """Return what is known of the resource's worker, if it serves this claim."""
        ...

    def any(self, name: str) -> WorkerRun | None:
        """Return what is known of the resource's worker, whichever claim it serves."""
        ...

    async def start(self, name: str, sandbox: SandboxHandle, request: StartRequest) -> WorkerRun:
        """Start the claim's worker, unless it is started already (raises SupervisorRefusedError)."""
        ...

    async def watch(
        self, name: str, sandbox: SandboxHandle, claim: str, epoch: int, *, resumed: bool = False
    ) -> WorkerRun:
        """Open the stream of a worker that was started earlier (raises SupervisorRefusedError)."""
        ...

    async def stop(self, sandbox: SandboxHandle, claim: str, epoch: int) -> None:
        """Kill the claim's worker. Does nothing if it is gone."""
        ...

    async def leave(self, sandbox: SandboxHandle) -> None:
        """End the handle's session in its shared sandbox, and remove its files there. Safe to repeat."""
        ...

    async def settle(self, name: str) -> None:
        """Wait until the stream of an ended worker has closed by itself."""
        ...

    async def forget(self, name: str) -> None:
        """Close the resource's stream. Its worker continues."""
        ...

    async def close(self) -> None:
        """Close all streams. The workers continue."""
        ...


class SessionStore(Protocol):
    """The ManagedSession resources. Each write is conditional on the version on which it is based.

    A write raises ConflictError if the resource has changed since, and ResourceGoneError if it is gone.
    """

    async def get(self, name: str) -> Body | None:
        """Return the newest resource called `name`; None if there is none."""
        ...

    def pages(self) -> AsyncIterator[Sequence[Body]]:
        """Yield all resources page by page."""
        ...

    async def create(self, session_id: str, environment_id: str) -> Body:
        """Create the resource of a session whose work was offered."""
        ...

    async def patch(self, resource: ManagedSession, body: Body) -> Body:
        """Merge `body` into metadata and spec."""
        ...

    async def patch_status(self, resource: ManagedSession, status: Body) -> Body:
        """Merge `status` into the status."""
        ...

    async def delete(self, resource: ManagedSession) -> Body | None:
        """Request the resource's deletion. Return the resource; None if it is gone."""
        ...


class ManagedSandboxStore(Protocol):
    """The ManagedSandbox resources. Each write is conditional on the version on which it is based.

    A write raises ConflictError if the resource has changed since, and ResourceGoneError if it is gone.
    """

    async def get(self, name: str) -> Body | None:
        """Return the newest resource called `name`; None if there is none."""
        ...

    async def list(self) -> list[Body] | None:
        """Return all resources; None if the cluster does not have the kind."""
        ...

    async def create(self, name: str, spec: ManagedSandboxSpec) -> Body:
        """Create the resource (raises ConflictError if it exists)."""
        ...

    async def patch_status(self, owner: ManagedSandbox, status: Body) -> Body:
        """Merge `status` into the status."""
        ...

    async def remove(self, owner: ManagedSandbox) -> None:
        """Delete the resource with our finalizer. Does nothing if it is gone."""
        ...


class TokenStore(Protocol):
    """The session tokens of claims, from the claim to its worker's first heartbeat."""

    async def put(self, resource: ManagedSession, claim: str, token: SecretStr | None) -> None:
        """Store the token for the resource's claim. It replaces any other token of the resource."""
        ...

    async def get(self, resource_name: str, claim: str) -> tuple[bool, SecretStr | None]:
        """Return whether there is a token of this claim, and the token."""
        ...

    async def delete(self, resource: ManagedSession, claim: str | None = None) -> None:
        """Delete the resource's token (only that of `claim`, if given), if there is one."""
        ...


class EventSink(Protocol):
    """Kubernetes Events about resources. They inform people; nothing depends on them."""

    def record(
        self, resource: ManagedSession, reason: Reason, message: str, *, warning: bool = False
    ) -> None:
        """Post an Event of type Normal or Warning."""
        ...


class SpanSink(Protocol):
    """Where the spans of traces go. Neither call waits, and a failure only costs spans."""

    def sampled(self, trace_id: int) -> bool:
        """Return whether the trace is to be sent."""
        ...

    def send(self, trace_id: int, spans: Sequence[Span]) -> None:
        """Send the spans of a trace, the root first."""
        ...
