"""Decides when snapshots of a session's sandbox are taken, used and deleted. Pure.

These snapshots are kept beside the sandbox, and outlive it. What a pause saves is another matter
(`steps/snapshot.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from managed_session_api.conditions import Reason
from managed_session_api.resource import (
    DeletionPolicy,
    EffectiveStatus,
    ManagedSession,
    ReplacedSandbox,
    RestoreRequest,
    SandboxState,
    SnapshotsSpec,
    SnapshotStatus,
)
from managed_session_worker.protocol import lease_given_back

from managed_session_operator.domain.observation import Observation
from managed_session_operator.domain.step import Decision, Step

MOST = 60
"""Number of a session's snapshots from which on no further ones are taken. The CRD allows 64."""

_BEFORE_A_WORKER = frozenset({Step.PREPARE, Step.ACKNOWLEDGE, Step.START_WORKER})
_IN_THE_WAY = frozenset({Step.FINALIZE, Step.RECORD_VANISHED, Step.RESOLVE_CREATE, Step.RESTORE, Step.REFUSE})
"""Steps before which a restore is not gone on with."""


def taken(snapshots: Iterable[SnapshotStatus]) -> list[SnapshotStatus]:
    """Return the snapshots that exist."""
    return [each for each in snapshots if each.id is not None]


def being_taken(resource: ManagedSession) -> SnapshotStatus | None:
    """Return the snapshot that was begun and whose end is not recorded."""
    return next((each for each in resource.status.snapshots if each.id is None), None)


def current(resource: ManagedSession) -> SnapshotStatus | None:
    """Return a snapshot that has all files of the session: none of its workers has run since."""
    status = resource.status
    return next(
        (
            each
            for each in taken(status.snapshots)
            if each.sandbox_id == status.sandbox.id and each.claim == status.work.claim
        ),
        None,
    )


def requested(resource: ManagedSession) -> str | None:
    """Return the name of the snapshot that is asked for and was not taken yet."""
    wanted = resource.spec.requests.snapshot
    return wanted if wanted and wanted != resource.status.requests.snapshot else None


def restore_requested(resource: ManagedSession) -> RestoreRequest | None:
    """Return the restore that is asked for and has not begun.

    A session that is deleted needs none, and a shared sandbox is never restored.
    """
    wanted, deleted = resource.spec.requests.restore, resource.metadata.deletion_timestamp is not None
    begun = wanted is not None and wanted.id == resource.status.requests.restore
    return None if begun or deleted or resource.status.sandbox.shared_by is not None else wanted


def refused_request(resource: ManagedSession) -> bool:
    """Return whether something is asked for that a shared sandbox does not have."""
    restore = resource.spec.requests.restore
    asked = restore is not None and restore.id != resource.status.requests.restore
    return resource.status.sandbox.shared_by is not None and (asked or requested(resource) is not None)


def source_of(resource: ManagedSession, policy: EffectiveStatus) -> str | None:
    """Return the snapshot from which the session's next sandbox is created; None for the template.

    That is the one to be restored. A sandbox that was lost comes back from the session's newest snapshot.
    """
    if (wanted := restore_requested(resource)) is not None:
        return wanted.snapshot_id
    own = taken(resource.status.snapshots)
    return own[-1].id if own else policy.from_snapshot


def is_foreign(resource: ManagedSession, snapshot_id: str) -> bool:
    """Return whether a snapshot may be of another session."""
    return all(each.id != snapshot_id for each in resource.status.snapshots)


def restore_begins(resource: ManagedSession) -> bool:
    """Return whether the next sandbox is created because of a restore, although there may be one.

    No worker may be in the present one: it is paused, and no claim was acknowledged for it.
    """
    status = resource.status
    if status.sandbox.state in (SandboxState.CREATING, SandboxState.RUNNING):
        return False
    served = status.work.acknowledged_at is not None and status.work.finished_at is None
    return not served and restore_requested(resource) is not None


def is_restoring(resource: ManagedSession) -> bool:
    """Return whether the attempt that is under way serves the restore that is asked for."""
    status, wanted = resource.status, resource.spec.requests.restore
    return (
        status.sandbox.state is SandboxState.CREATING
        and wanted is not None
        and wanted.id == status.requests.restore
        and wanted.snapshot_id == status.sandbox.from_snapshot
    )


def without_sandbox(resource: ManagedSession) -> ManagedSession:
    """Return the resource as it is for its next sandbox, if a restore replaces the present one."""
    return with_sandbox(resource, None) if restore_begins(resource) else resource


def with_sandbox(resource: ManagedSession, sandbox_id: str | None) -> ManagedSession:
    """Return the resource as it is with this sandbox, or with none."""
    sandbox = resource.status.sandbox.model_copy(update={"id": sandbox_id})
    status = resource.status.model_copy(update={"sandbox": sandbox})
    return resource.model_copy(update={"status": status})


def source_fields(resource: ManagedSession, policy: EffectiveStatus) -> dict[str, Any]:
    """Return the fields of `status.sandbox` that say from which snapshot the next sandbox is created."""
    source, known = source_of(resource, policy), resource.status.sandbox
    fields: dict[str, Any] = {"fromSnapshot": source}
    fields["unclean"] = True if source is not None and is_foreign(resource, source) else None
    if restore_begins(resource):
        fields["id"] = None
        if known.id is not None:
            replaced = ReplacedSandbox(id=known.id, from_snapshot=known.from_snapshot, unclean=known.unclean)
            fields["replaces"] = replaced.to_json()
    return fields


def restore_fields(resource: ManagedSession) -> dict[str, str]:
    """Return `status.requests` for the attempt with which a restore begins; empty for any other."""
    wanted = restore_requested(resource)
    return {"restore": wanted.id} if wanted is not None else {}


def went_back(resource: ManagedSession) -> str | None:
    """Return a message if the sandbox of the newest attempt replaces a lost one, with older files."""
    sandbox = resource.status.sandbox
    source = next(
        (each for each in taken(resource.status.snapshots) if each.id == sandbox.from_snapshot), None
    )
    if source is None or source.taken_at is None or sandbox.replaces is not None or not sandbox.vanished:
        return None
    return (
        f"Sandbox {sandbox.vanished[-1]} vanished, and the session went back to its snapshot {source.id}. "
        f"Everything written since {source.taken_at:%Y-%m-%dT%H:%M:%SZ} is lost."
    )


def excess(snapshots: Sequence[SnapshotStatus], policy: SnapshotsSpec | None) -> list[SnapshotStatus]:
    """Return the snapshots beyond those to keep, of each sort the oldest ones."""
    keep = (policy or SnapshotsSpec()).keep_last
    known = taken(snapshots)
    sorts = ([each for each in known if each.requested], [each for each in known if not each.requested])
    return [each for sort in sorts for each in sort[:-keep]]


def may_have_files(resource: ManagedSession) -> bool:
    """Return whether the sandbox may have files worth keeping."""
    status = resource.status
    return status.turns > 0 or status.last_active_time is not None or status.work.attempts > 0


def retention_due(resource: ManagedSession, policy: EffectiveStatus) -> bool:
    """Return whether a deleted session's files have to be saved before its sandbox is killed."""
    sandbox = resource.status.sandbox
    return (
        policy.deletion_policy is DeletionPolicy.RETAIN
        and sandbox.shared_by is None
        and sandbox.id is not None
        and sandbox.state is not SandboxState.CREATING
        and may_have_files(resource)
        and current(resource) is None
    )


def with_snapshots(resource: ManagedSession, observation: Observation, decision: Decision) -> Decision:
    """Return what to do about snapshots before or instead of `decision`, or else `decision`."""
    if decision.step is Step.FINALIZE:
        return _deletion(resource, observation, decision)
    if (going_on := _restore(resource, decision)) is not None:
        return going_on
    sandbox = resource.status.sandbox
    if sandbox.unclean and observation.connected:
        waits = decision.step is Step.WAIT and decision.reason is Reason.AWAITING_CLAIM
        if waits or decision.step in _BEFORE_A_WORKER or _at_rest(resource, observation, decision):
            return Decision(Step.CLEAN_SANDBOX)
    return _snapshot(resource, observation, decision) or decision


def _deletion(resource: ManagedSession, observation: Observation, decision: Decision) -> Decision:
    sandbox, policy = resource.status.sandbox, observation.policy
    if (
        sandbox.replaces is not None
        and sandbox.id is None
        and policy.deletion_policy is DeletionPolicy.RETAIN
    ):
        # Nobody knows yet whether the restore can be done, so the former files are the ones to save.
        return Decision(Step.UNDO_RESTORE)
    if observation.missing or not retention_due(resource, policy):
        return decision
    return Decision(Step.RETAIN if observation.connected else Step.PROVISION)


def _restore(resource: ManagedSession, decision: Decision) -> Decision | None:
    """Decide for a restore that has begun: the sandbox that it replaces is recorded beside the new one."""
    sandbox = resource.status.sandbox
    if sandbox.replaces is None or decision.step in _IN_THE_WAY:
        return None
    if sandbox.id is not None:
        return Decision(Step.KILL_REPLACED)
    return Decision(Step.UNDO_RESTORE) if sandbox.state is not SandboxState.CREATING else None


def _snapshot(resource: ManagedSession, observation: Observation, decision: Decision) -> Decision | None:
    """Decide for a sandbox in which no worker runs (any more)."""
    sandbox = resource.status.sandbox
    if sandbox.id is None or observation.missing:
        return None
    if sandbox.shared_by is not None:
        return _of_shared(resource, observation, decision)
    if decision.step is Step.FINISH:
        return _after_turn(resource, observation)
    return _on_request(resource, observation, decision)


def _on_request(resource: ManagedSession, observation: Observation, decision: Decision) -> Decision | None:
    if not _at_rest(resource, observation, decision):
        return None
    if restore_requested(resource) is not None and decision.step is Step.WAIT:
        return _begin_restore(observation)
    if requested(resource) is None:
        return None
    later = observation.snapshot_again_after
    if later is not None:
        if decision.step is not Step.WAIT:
            return None
        return replace(decision, again_after=min(later, decision.again_after or later))
    return Decision(Step.TAKE_SNAPSHOT if observation.connected else Step.PROVISION)


def _begin_restore(observation: Observation) -> Decision:
    """Create the sandbox that replaces the present one, once it is certain which class it is for."""
    if observation.choice.undecided:
        return Decision(Step.LEARN_SESSION)
    if observation.choice.tied:
        return Decision(Step.WAIT, Reason.AMBIGUOUS_CLASS, observation.choice.message)
    return Decision(Step.PROVISION)


def _of_shared(resource: ManagedSession, observation: Observation, decision: Decision) -> Decision | None:
    """Report that a request cannot be served. The step finds out so, now and then."""
    later = observation.snapshot_again_after
    if decision.step is not Step.WAIT or not _at_rest(resource, observation, decision):
        return None
    if not refused_request(resource):
        return None
    if later is not None:
        return replace(decision, again_after=min(later, decision.again_after or later))
    return Decision(Step.TAKE_SNAPSHOT)


def _at_rest(resource: ManagedSession, observation: Observation, decision: Decision) -> bool:
    """Return whether the session has nothing to do, and its sandbox is paused or about to be."""
    work = resource.status.work
    active = work.claim is not None and work.finished_at is None
    if active or observation.offer is not None or resource.status.ended_at is not None:
        return False
    return decision.step is Step.PAUSE or (decision.step is Step.WAIT and decision.reason in _RESTS)


_RESTS = frozenset(
    {
        Reason.IDLE,
        Reason.AWAITING_LEASE,
        Reason.SESSION_STUCK,
        Reason.BUDGET_REACHED,
        Reason.WORKER_START_FAILED,
        Reason.WORK_LOST,
    }
)
"""Reasons for which a session rests that is otherwise served."""


def _after_turn(resource: ManagedSession, observation: Observation) -> Decision | None:
    """Decide at the end of a worker, before its sandbox is paused."""
    run, policy = observation.run, observation.policy.snapshots
    if run is None or run.record is None or not run.heartbeat or not observation.connected:
        return None
    wanted = requested(resource) is not None or (policy is not None and policy.after_each_turn)
    if not wanted or observation.snapshot_again_after is not None:
        return None
    if not lease_given_back(run.record.reason) or (current(resource) is not None and not requested(resource)):
        return None
    return Decision(Step.TAKE_SNAPSHOT)
