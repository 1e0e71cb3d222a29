"""Ends a session, and deletes its resource."""

from __future__ import annotations

import logging
from datetime import timedelta

from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from managed_session_runtime.credentials import CredentialError

from managed_session_operator.domain.budget import budget_reached, was_raised
from managed_session_operator.domain.decide import claim_active, unchecked_end_event
from managed_session_operator.domain.errors import ErrorKind, OperationError, UnderWayError
from managed_session_operator.domain.mounts import release_plan
from managed_session_operator.domain.policy import idempotency_key, sandbox_metadata
from managed_session_operator.domain.usage import Usage
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.hooks import before_kill, reach_running
from managed_session_operator.steps.kept_snapshots import delete_all
from managed_session_operator.steps.shared_sandbox import depart, has_company

logger = logging.getLogger(__name__)

_RECHECK_SECONDS = 300.0
_STORE_PATIENCE = timedelta(seconds=90)
"""How long a deletion waits for files to be stored, whose own limit is shorter."""
_STOP_PATIENCE = timedelta(seconds=60)
"""How long a deletion waits until its work item is stopped. After that, the lease is left to lapse."""


async def confirm_end(context: Context, resource: ManagedSession) -> float | None:
    """Ask Anthropic whether the session has ended, because of an event or for the session end check."""
    cache, event = context.cache(resource.metadata.name), unchecked_end_event(resource)
    end_reported = event is not None
    try:
        session = await context.sessions.session(resource.spec.session_id)
    except OperationError as error:
        if end_reported or error.kind is ErrorKind.USER_ACTION:
            raise
        # The session end check can wait. It must not delay the session's next message.
        cache.end_check_due = False
        logger.info("end not checked", extra={"resource": resource.metadata.name, "cause": str(error)})
        return None
    if session is None and not end_reported and context.listings.queue_error is not None:
        # The whole environment is unavailable, as with the key of another workspace. So the answer says
        # nothing about this session.
        cache.end_check_due = False
        return None
    ended = session is None or session.ended
    usage = session.usage if session is not None else None
    await record_end(context, resource, ended=ended, deleted=session is None, usage=usage)
    if event is not None and not ended:
        resource = await context.records.write_status(resource, recovery={"checkedEndEvent": event.id})
    if session is not None and not ended and budget_reached(resource) and was_raised(session):
        # No event has told. Whether the session needs a worker is found out as for one that may be stuck.
        told = resource.status.last_event
        settled = {"checkedAt": told.created_at} if told is not None else {}
        await context.records.write_status(
            resource,
            usage=usage,
            work={"stopReason": None},
            recovery={**settled, "suspectedAt": context.now()},
        )
    cache.end_check_due, cache.end_asked_at = False, context.now()
    return None


async def record_end(
    context: Context,
    resource: ManagedSession,
    *,
    ended: bool,
    deleted: bool,
    usage: Usage | None = None,
) -> None:
    """Record that the session has ended. If it was deleted, delete its resource at once."""
    if not ended:
        return
    if deleted:
        await context.records.delete(resource)
    else:
        await context.records.write_status(resource, usage=usage, endedAt=context.now())
    how = "deleted" if deleted else "terminated or archived"
    context.event(resource, Reason.SESSION_ENDED, f"The session was {how}.")


async def delete(context: Context, resource: ManagedSession) -> float | None:
    """Delete the resource, because its time to live has passed."""
    await context.records.delete(resource)
    return _RECHECK_SECONDS


async def _stop_work(context: Context, resource: ManagedSession, work_id: str) -> None:
    """Stop the item of a dead worker. Errors are retried for a while, but do not block the deletion."""
    deleted = resource.metadata.deletion_timestamp or context.now()
    try:
        await context.queue.stop_held(work_id)
    except CredentialError as error:
        logger.warning("work not stopped", extra={"work": work_id, "cause": str(error)})
    except OperationError as error:
        passing = error.kind in (ErrorKind.TRANSIENT, ErrorKind.RATE_LIMITED)
        if passing and context.now() < deleted + _STOP_PATIENCE * context.settings.retry_scale:
            raise
        logger.warning("work not stopped", extra={"work": work_id, "cause": str(error)})


async def _store_files(context: Context, resource: ManagedSession) -> None:
    """Have the mounts of a running sandbox store what the agent has written. Errors do not block the kill."""
    plan = release_plan(context.policy(resource))
    if plan is None:
        return
    await reach_running(context, resource)
    sandbox = context.cache(resource.metadata.name).sandbox
    if sandbox is None:
        return
    try:
        report = await context.preparations.prepare(sandbox, plan)
    except UnderWayError:
        deleted = resource.metadata.deletion_timestamp or context.now()
        if context.now() < deleted + _STORE_PATIENCE:
            raise
        return
    except OperationError as error:
        logger.warning("mounts not unmounted", extra={"sandbox": sandbox.sandbox_id, "cause": str(error)})
        return
    for each in report.warnings:
        context.event(resource, Reason.MOUNT_FAILED, each.message(), warning=True)


def _may_have_others(context: Context, resource: ManagedSession) -> bool:
    """Return whether E2B may have sandboxes of the resource that the status does not record."""
    if not resource.may_be_restored:
        return resource.status.sandbox.attempt > 0
    # A copy of another resource has the same identity. Its deletion must not kill the other's sandbox.
    return context.records.cache.serving_name(resource.spec.session_id) in (None, resource.metadata.name)


async def finalize(context: Context, resource: ManagedSession) -> float | None:
    """Kill all sandboxes of the resource, stop its work, delete its token and remove the finalizer."""
    status, name = resource.status, resource.metadata.name
    await context.runs.forget(name)
    await context.sandboxes.give_up_create(idempotency_key(resource.metadata.uid, status.sandbox.attempt))
    if status.sandbox.id is not None:
        await before_kill(context, resource)
        if not has_company(context, resource):
            await _store_files(context, resource)
    killed = status.sandbox.shared_by is not None and await depart(context, resource)
    await _kill(context, resource)
    if killed:
        message = "Killed the sandbox that the session was the last to share."
        context.event(resource, Reason.SANDBOX_KILLED, message)
    await delete_all(context, resource)
    served = claim_active(resource) and status.work.acknowledged_at is not None
    if status.work.id is not None and served:
        await _stop_work(context, resource, status.work.id)
    await context.tokens.delete(resource)
    if context.traces is not None:
        context.traces.deleted(resource)
    remaining = [each for each in resource.metadata.finalizers if each != names.FINALIZER]
    await context.records.patch(resource, {"metadata": {"finalizers": remaining}})
    if not remaining:
        context.records.cache.remove(name, resource.metadata.uid)
    if context.audit is not None:
        context.audit.released(resource)
    logger.info("resource released", extra={"resource": name, "session": resource.spec.session_id})
    await context.forget(name)
    return None


async def _kill(context: Context, resource: ManagedSession) -> None:
    """Kill the sandboxes that belong to this session alone."""
    sandbox, replaced = resource.status.sandbox, resource.status.sandbox.replaces
    own = sandbox.id if sandbox.shared_by is None else None
    for sandbox_id in (own, replaced.id if replaced is not None else None):
        if sandbox_id is not None:
            await context.sandboxes.kill(sandbox_id)
    if _may_have_others(context, resource):
        others = await context.sandboxes.list(sandbox_metadata(resource, context.installation_id))
        for view in others:
            await context.sandboxes.kill(view.sandbox_id)
        if others or sandbox.shared_by is None:
            context.event(resource, Reason.SANDBOX_KILLED, "Killed the session's sandbox.")
