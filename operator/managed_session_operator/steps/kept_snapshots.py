"""Takes snapshots of a session's sandbox, keeps the newest ones, and restores them."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from managed_session_api.conditions import ConditionStatus, ConditionType, Reason
from managed_session_api.names import snapshot_name
from managed_session_api.resource import DeletionPolicy, ManagedSession, SandboxState, SnapshotStatus

from managed_session_operator.domain import kept_snapshots
from managed_session_operator.domain.conditions import sandbox_ready, snapshot_failed, snapshot_worked
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.preparation import undo_plan
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)

_FIRST_DELAY = timedelta(seconds=30)
_LONGEST_DELAY = timedelta(hours=1)
"""After a failure the sandbox is resumed again for a requested snapshot, which costs something."""
_SERVER_ERRORS = 500
"""Statuses from here on do not say that E2B made no snapshot: one may be found by its name later."""


async def take(context: Context, resource: ManagedSession) -> float | None:
    """Take a snapshot, because it was asked for or a turn has ended. A failure holds nothing up."""
    cache = context.cache(resource.metadata.name)
    try:
        resource = await _take(context, resource)
    except OperationError as error:
        cache.snapshot_failures += 1
        delay = min(_FIRST_DELAY * 2 ** (cache.snapshot_failures - 1), _LONGEST_DELAY)
        cache.snapshot_again_at = context.now() + delay * context.settings.retry_scale
        logger.warning(
            "snapshot not taken", extra={"resource": resource.metadata.name, "cause": error.message}
        )
        await _report(context, resource, error)
        return None
    cache.snapshot_failures, cache.snapshot_again_at = 0, None
    await _delete_excess(context, resource)
    return None


async def retain(context: Context, resource: ManagedSession) -> float | None:
    """Save the files of a deleted session in a snapshot. The deletion waits until there is one."""
    name, work = resource.metadata.name, resource.status.work
    sandbox = context.cache(name).sandbox
    if sandbox is None:
        return None
    try:
        if claim_active(resource) and work.claim is not None:
            await context.runs.stop(sandbox, work.claim, context.epoch())
            await context.runs.forget(name)
        await _take(context, resource)
    except OperationError as error:
        # The sandbox may not be running any more. The next step connects to it again first.
        context.cache(name).disconnect()
        error.message += " Set spec.lifecycle.deletionPolicy to Delete to delete the session without it."
        raise
    return None


async def _take(context: Context, resource: ManagedSession) -> ManagedSession:
    """Take the snapshot that has begun, or a new one. Return the newest resource.

    Its name is recorded first. So a snapshot whose answer was lost is found again by its name, and a second
    request for it makes no second one.
    """
    status = resource.status
    if status.sandbox.shared_by is not None:
        message = (
            f"The session shares the sandbox of {status.sandbox.shared_by}, of which no snapshots are taken "
            "and to which none is restored. Remove spec.requests."
        )
        raise OperationError(ErrorKind.USER_ACTION, Reason.SNAPSHOT_FAILED, message)
    sandbox_id, begun = status.sandbox.id, kept_snapshots.being_taken(resource)
    if sandbox_id is None:
        return resource
    snapshot_id: str | None = None
    if begun is not None and not context.snapshots.taking(sandbox_id, begun.name):
        snapshot_id = await context.snapshots.find(begun.name)
        stale = (begun.sandbox_id, begun.claim) != (sandbox_id, status.work.claim)
        if snapshot_id is None and stale:
            resource = await _write(context, resource, _without(resource, begun.name))
            begun = None
    if begun is None:
        if len(resource.status.snapshots) >= kept_snapshots.MOST:
            raise OperationError(
                ErrorKind.USER_ACTION,
                Reason.SNAPSHOT_FAILED,
                f"The session has {len(resource.status.snapshots)} snapshots that cannot be deleted, because "
                "sandboxes were created from them.",
            )
        begun = SnapshotStatus(
            name=snapshot_name(context.installation_id, resource.spec.session_id, context.now()),
            requested=kept_snapshots.requested(resource),
            sandbox_id=sandbox_id,
            claim=resource.status.work.claim,
            turn=resource.status.turns + (1 if claim_active(resource) else 0),
        )
        resource = await _write(context, resource, [*resource.status.snapshots, begun])
    if snapshot_id is None:
        try:
            snapshot_id = await context.snapshots.take(sandbox_id, begun.name)
        except OperationError as error:
            if error.outcome_known and (error.status or 0) < _SERVER_ERRORS:
                await _write(context, resource, _without(resource, begun.name))
            raise
    return await _record(context, resource, begun, snapshot_id)


async def _record(
    context: Context, resource: ManagedSession, begun: SnapshotStatus, snapshot_id: str
) -> ManagedSession:
    done = begun.model_copy(update={"id": snapshot_id, "taken_at": context.now()})
    resource = await context.records.write_status(
        resource,
        conditions=[snapshot_worked()],
        snapshots=_json([*_without(resource, begun.name), done]),
        requests={"snapshot": begun.requested} if begun.requested else {},
    )
    called = f" ({begun.requested})" if begun.requested else ""
    message = f"Took snapshot {snapshot_id}{called} of sandbox {begun.sandbox_id}."
    context.event(resource, Reason.SNAPSHOT_TAKEN, message)
    return resource


def _without(resource: ManagedSession, name: str) -> list[SnapshotStatus]:
    return [each for each in resource.status.snapshots if each.name != name]


def _json(snapshots: list[SnapshotStatus]) -> list[dict[str, Any]]:
    return [each.to_json() for each in snapshots]


async def _write(
    context: Context, resource: ManagedSession, snapshots: list[SnapshotStatus]
) -> ManagedSession:
    return await context.records.write_status(resource, snapshots=_json(snapshots) or None)


async def _report(context: Context, resource: ManagedSession, error: OperationError) -> None:
    newest = context.records.cache.get(resource.metadata.name) or resource
    await context.records.write_status(newest, conditions=[snapshot_failed(error.reason, error.message)])


async def _delete_excess(context: Context, resource: ManagedSession) -> None:
    """Delete the snapshots beyond those to keep. What fails is tried again after the next snapshot."""
    for each in kept_snapshots.excess(resource.status.snapshots, context.policy(resource).snapshots):
        try:
            gone = await _delete(context, each)
        except OperationError as error:
            logger.warning("snapshot not deleted", extra={"snapshot": each.id, "cause": error.message})
            return
        if gone:
            resource = await _write(context, resource, _without(resource, each.name))


async def _delete(context: Context, snapshot: SnapshotStatus, *, deleted_uid: str = "") -> bool:
    """Delete a snapshot. Return False if a sandbox was created from it, which needs it.

    `deleted_uid` names the resource whose sandboxes have just been killed.
    """
    snapshot_id = snapshot.id or await context.snapshots.find(snapshot.name)
    if snapshot_id is None:
        return True
    for other in context.records.cache.summaries():
        if snapshot_id in other.snapshot_ids and other.uid != deleted_uid:
            return False
    return await context.snapshots.delete(snapshot_id)


async def delete_all(context: Context, resource: ManagedSession) -> None:
    """Delete the snapshots of a deleted session, or leave them if its policy says so.

    Raises:
        OperationError: some are left that could be deleted.
    """
    retained = context.policy(resource).deletion_policy is DeletionPolicy.RETAIN
    for each in resource.status.snapshots:
        if retained:
            if each.id is not None:
                told = {"snapshot": each.id, "session": resource.spec.session_id}
                logger.info("snapshot retained", extra=told)
                context.event(
                    resource,
                    Reason.SNAPSHOT_RETAINED,
                    f"Snapshot {each.id} has the files of session {resource.spec.session_id}.",
                )
        elif not await _delete(context, each, deleted_uid=resource.metadata.uid):
            logger.warning("snapshot in use", extra={"snapshot": each.id})
            message = f"Snapshot {each.id} was kept, because a sandbox was created from it."
            context.event(resource, Reason.SNAPSHOT_IN_USE, message, warning=True)


async def clean(context: Context, resource: ManagedSession) -> float | None:
    """Remove what another session has left in the sandbox, before a worker starts there."""
    cache = context.cache(resource.metadata.name)
    if cache.sandbox is None:
        return None
    try:
        await context.cleaning.clean(cache.sandbox)
        report = await context.preparations.prepare(cache.sandbox, undo_plan(), purpose="clean")
        if report.failed is not None:
            message = (
                f"What another session's policy has added could not be removed: {report.failed.message()}"
            )
            raise OperationError(ErrorKind.TRANSIENT, Reason.PREPARATION_FAILED, message)
    except OperationError:
        # The sandbox may not be running any more. The next step connects to it again first.
        cache.disconnect()
        raise
    await context.records.write_status(resource, sandbox={"unclean": None})
    return None


async def kill_replaced(context: Context, resource: ManagedSession) -> float | None:
    """Kill the sandbox that a restore has replaced, now that the new one is recorded."""
    replaced = resource.status.sandbox.replaces
    if replaced is not None:
        await context.sandboxes.kill(replaced.id)
    resource = await context.records.write_status(
        resource, sandbox={"replaces": None}, conditions=[snapshot_worked()]
    )
    message = f"Restored snapshot {resource.status.sandbox.from_snapshot}. The former sandbox was killed."
    context.event(resource, Reason.SANDBOX_RESTORED, message)
    return None


async def undo_restore(context: Context, resource: ManagedSession) -> float | None:
    """Use the sandbox again that a restore was to replace, because there is no new one.

    It was paused when the restore began, so its next use resumes it. The restore begins again, unless E2B
    does not have the snapshot.
    """
    failed = resource.status.condition(ConditionType.SNAPSHOT_FAILED)
    given_up = failed is not None and failed.reason == Reason.SNAPSHOT_NOT_FOUND
    sandbox = resource.status.sandbox
    if sandbox.replaces is None:
        return None
    context.cache(resource.metadata.name).disconnect()
    created = sandbox.created_with
    await context.records.write_status(
        resource,
        conditions=[sandbox_ready(ConditionStatus.TRUE, Reason.SANDBOX_PAUSED)],
        sandbox={
            "id": sandbox.replaces.id,
            "state": str(SandboxState.PAUSED),
            "replaces": None,
            "unclean": sandbox.replaces.unclean,
            "fromSnapshot": sandbox.replaces.from_snapshot,
            # With which values it was created is not known any more.
            **({"createdWith": dict.fromkeys(created)} if created is not None else {}),
            **({"egress": ""} if sandbox.egress is not None else {}),
        },
        requests={} if given_up else {"restore": None},
    )
    return None


async def record_failed_create(context: Context, resource: ManagedSession, error: OperationError) -> None:
    """End the attempt. If E2B does not have the snapshot, the session does not ask for it again.

    Raises:
        OperationError: the error, unless a restore is given up: the session goes on without it.
    """
    status = resource.status
    source, replaces = status.sandbox.from_snapshot, status.sandbox.replaces
    fields: dict[str, Any] = {}
    conditions = []
    missing = source is not None and error.reason is Reason.TEMPLATE_NOT_FOUND
    if missing:
        error.reason = Reason.SNAPSHOT_NOT_FOUND
        error.message = f"E2B does not have the snapshot {source}. {error.message}"
        conditions = [snapshot_failed(error.reason, error.message)]
        if any(each.id == source for each in status.snapshots):
            left = [each for each in status.snapshots if each.id != source]
            fields = {"snapshots": _json(left) or None}
    await context.records.write_status(resource, conditions=conditions, sandbox={"state": None}, **fields)
    if not missing or replaces is None:
        raise error
