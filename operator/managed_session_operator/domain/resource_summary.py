"""Defines the few facts about a resource that passes over all resources need. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from managed_session_api import names
from managed_session_api.conditions import ConditionType, Phase, Reason
from managed_session_api.resource import ManagedSession, SandboxState, SandboxStatus

from managed_session_operator.domain import user_wait
from managed_session_operator.domain.budget import budget_reached
from managed_session_operator.domain.decide import claim_active, has_announced_run, unchecked_end_event

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResourceSummary:
    """What a pass over all resources asks first. Whatever it finds, it reads in the resource itself.

    Attributes:
        name, uid, identity, session_id: as in the resource.
        version: its resource version.
        created: its creation time, as the API server writes it.
        readable: whether this version of the operator can parse the resource. If not, the rest is unknown.
        at_rest: whether it waits for nothing but an event or a timer of its own: it is idle, its sandbox is
            paused or gone, and all that was announced is settled.
        deleting: whether its deletion was requested.
        claim_active: whether a claim is being served.
        ended: whether the session has ended.
        idle_since: since when it has been idle.
        sandbox_id, sandbox_state, shared_by: as in `status.sandbox`.
        class_name: name of the class that the status records.
        phase: as in the status.
        ready_reason: reason of the Ready condition.
        budget_reached: whether the session's budget at Anthropic is used up.
        awaiting_since: since when its worker has been waiting for its user; None if it does not.
        wait_paused: whether its claim rests, because its sandbox was paused while its user is awaited.
        active_since: since when the present claim's sandbox has been active; None if it is not.
        counted: for which day its status counts active seconds, and how many.
        snapshot_ids: the snapshots from which its sandboxes were created, or are being created.
    """

    name: str
    uid: str
    identity: str
    session_id: str
    version: int
    created: str
    readable: bool = False
    at_rest: bool = False
    deleting: bool = False
    claim_active: bool = False
    ended: bool = False
    idle_since: datetime | None = None
    sandbox_id: str | None = None
    sandbox_state: SandboxState | None = None
    shared_by: str | None = None
    class_name: str | None = None
    phase: str = ""
    ready_reason: str | None = None
    budget_reached: bool = False
    awaiting_since: datetime | None = None
    wait_paused: bool = False
    active_since: datetime | None = None
    counted: tuple[str, int] | None = None
    snapshot_ids: tuple[str, ...] = ()

    @property
    def session_key(self) -> str:
        """What names the session within a sandbox that it shares."""
        return names.session_key(self.identity, self.session_id)


def summary_of(body: Body, resource: ManagedSession | None) -> ResourceSummary:
    """Summarize a resource.

    Args:
        body: the resource as the API server sends it.
        resource: its parsed form; None if it cannot be parsed.
    """
    metadata, sandbox = body["metadata"], (body.get("status") or {}).get("sandbox") or {}
    name, uid, identity = metadata["name"], str(metadata.get("uid") or ""), names.identity(metadata)
    session_id = str((body.get("spec") or {}).get("sessionID") or "")
    version, created = int(metadata.get("resourceVersion") or 0), metadata.get("creationTimestamp") or ""
    if resource is None:
        return ResourceSummary(
            name, uid, identity, session_id, version, created, shared_by=sandbox.get("sharedBy")
        )
    status, work = resource.status, resource.status.work
    ready, counted = status.condition(ConditionType.READY), status.active_today
    return ResourceSummary(
        name=name,
        uid=uid,
        # One object for equal texts: there are many resources.
        identity=uid if identity == uid else identity,
        session_id=session_id,
        version=version,
        created=created,
        readable=True,
        at_rest=is_at_rest(resource),
        deleting=resource.metadata.deletion_timestamp is not None,
        claim_active=claim_active(resource),
        ended=status.ended_at is not None,
        idle_since=status.last_active_time or resource.metadata.creation_timestamp,
        sandbox_id=status.sandbox.id,
        sandbox_state=status.sandbox.state,
        shared_by=status.sandbox.shared_by,
        class_name=status.session_class.name if status.session_class is not None else None,
        phase=str(status.phase or ""),
        budget_reached=budget_reached(resource),
        ready_reason=ready.reason if ready is not None else None,
        awaiting_since=work.awaiting_user_since if user_wait.waits(resource) else None,
        wait_paused=user_wait.is_paused(resource),
        active_since=active_since(resource),
        counted=(counted.day, counted.seconds) if counted is not None else None,
        snapshot_ids=_snapshot_ids(status.sandbox),
    )


def active_since(resource: ManagedSession) -> datetime | None:
    """Return since when the present claim's sandbox has been active, which no status counts yet."""
    work = resource.status.work
    if work.acknowledged_at is None or work.finished_at is not None or work.wait_paused_at is not None:
        return None
    return max(work.acknowledged_at, work.wait_resumed_at or work.acknowledged_at)


def _snapshot_ids(sandbox: SandboxStatus) -> tuple[str, ...]:
    exists = sandbox.id is not None or sandbox.state is SandboxState.CREATING
    replaced = sandbox.replaces.from_snapshot if sandbox.replaces is not None else None
    return tuple(each for each in (sandbox.from_snapshot if exists else None, replaced) if each is not None)


def is_at_rest(resource: ManagedSession) -> bool:
    """Return whether the resource waits for nothing but an event or a timer of its own."""
    status, sandbox = resource.status, resource.status.sandbox
    ready = status.condition(ConditionType.READY)
    suspected, checked = status.recovery.suspected_at, status.recovery.checked_at
    return (
        status.phase is Phase.IDLE
        and ready is not None
        and ready.reason == Reason.IDLE
        and status.observed_generation == resource.metadata.generation
        and resource.metadata.deletion_timestamp is None
        and names.FINALIZER in resource.metadata.finalizers
        and status.ended_at is None
        and not claim_active(resource)
        and not has_announced_run(resource)
        and unchecked_end_event(resource) is None
        and (suspected is None or (checked is not None and checked >= suspected))
        and sandbox.state is (SandboxState.PAUSED if sandbox.id is not None else None)
        and sandbox.replaces is None
    )
