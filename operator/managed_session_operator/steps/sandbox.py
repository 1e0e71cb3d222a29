"""Creates, resumes, finds, extends and pauses a session's sandbox."""

from __future__ import annotations

import asyncio
import logging

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState, Scope
from managed_session_worker.protocol import ExitReason

from managed_session_operator.domain import kept_snapshots
from managed_session_operator.domain.conditions import (
    conditions_of,
    phase_of,
    workspace_regained,
    workspace_rolled_back,
)
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.policy import idempotency_key, sandbox_metadata, sandbox_request
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.sandbox import SandboxView, adoption_order
from managed_session_operator.domain.session_cache import SessionCache
from managed_session_operator.domain.user_wait import NO_WAIT
from managed_session_operator.steps.adoption import connect_first
from managed_session_operator.steps.class_policy import next_policy, policy_when_found, prepared_attempt
from managed_session_operator.steps.command_variables import surroundings
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.joining import is_under_way, join, wanted_spec
from managed_session_operator.steps.kept_snapshots import record_failed_create
from managed_session_operator.steps.network import read_secrets
from managed_session_operator.steps.sandbox_connection import (
    connect,
    log_assigned,
    pause_sandbox,
    reporting_start,
)
from managed_session_operator.steps.sandbox_loss import record_loss
from managed_session_operator.steps.shared_sandbox import extension, has_company, running_handle
from managed_session_operator.steps.snapshot import NEVER_PAUSED, saved_conditions, saved_pause, saved_sandbox
from managed_session_operator.steps.waiting import wait_for_creation, wait_for_slot, waiting_since

logger = logging.getLogger(__name__)


async def provision(context: Context, resource: ManagedSession) -> float | None:
    """Resume the recorded sandbox, or create one. Both are safe to repeat."""
    name = resource.metadata.name
    cache = context.cache(name)
    claimed = claim_active(resource)
    since, sandbox_id = waiting_since(context, resource), resource.status.sandbox.id
    if kept_snapshots.restore_begins(resource):
        sandbox_id = None
    class_name = context.class_name(resource)
    if not context.capacity.ask(name, since, announced=not claimed, class_name=class_name):
        return await wait_for_slot(context, resource)
    # Before anything is paid for: a session whose Secret is missing waits without a sandbox.
    policy = context.policy(resource) if claimed else next_policy(context, resource).policy.values
    await asyncio.gather(read_secrets(context, policy), surroundings(context, policy))
    context.sharing.attach(name)
    scope = policy.scope or Scope.SESSION
    shared = None
    if sandbox_id is None and scope is not Scope.SESSION:
        shared = await wanted_spec(context, resource, scope)
    if sandbox_id is None and not await is_under_way(context, resource, shared):
        wait = await context.creation.take(name, since, announced=not claimed, class_name=class_name)
        if wait is not None:
            return await wait_for_creation(context, resource, wait)
    cache.waits_for_creation = False
    if sandbox_id is not None:
        ready = _resume(context, resource, cache, sandbox_id)
    elif shared is not None:
        ready = join(context, resource, cache, shared)
    else:
        ready = _create(context, resource, cache)
    # Concurrent, because E2B takes longer: the worker's start needs the list of the agent's skills.
    await asyncio.gather(ready, _learn_session(context, resource, cache))
    return None


async def _learn_session(context: Context, resource: ManagedSession, cache: SessionCache) -> None:
    """Read the session once. If that fails, the worker's start tries again."""
    if cache.session is None:
        try:
            cache.session = await context.sessions.session(resource.spec.session_id)
        except OperationError as error:
            logger.info("session not read", extra={"cause": str(error)})


async def _resume(context: Context, resource: ManagedSession, cache: SessionCache, sandbox_id: str) -> None:
    if resource.status.sandbox.state is SandboxState.RUNNING:
        # It was running when last recorded. E2B may have paused it since, and that pause may have failed.
        view = await context.sandboxes.info(sandbox_id)
        if view is None:
            await record_loss(context, resource)
            return
        if view.paused:
            # Recorded before the resume, after which E2B no longer shows the period that has ended, nor that
            # the sandbox was rolled back.
            conditions = saved_conditions(context, resource, view)
            resource = await context.records.write_status(
                resource, conditions=conditions, sandbox=saved_sandbox(view, context.now())
            )
    reached = await connect(context, resource, sandbox_id)
    if reached is None:
        return
    cache.connect(reached[1], context.policy(resource).timeout_seconds, context.now())
    log_assigned(resource, sandbox_id, "resumed")
    context.event(resource, Reason.SANDBOX_RESUMED, f"Resumed sandbox {sandbox_id}.")


async def _create(context: Context, resource: ManagedSession, cache: SessionCache) -> None:
    sandbox = resource.status.sandbox
    if sandbox.state is not SandboxState.CREATING or sandbox.shared_by is not None:
        following = next_policy(context, kept_snapshots.without_sandbox(resource))
        if not (claim_active(resource) or following.decided):
            # A class has changed since the step was chosen.
            return
        cache.fresh_attempt = sandbox.attempt + 1
        resource = await context.records.write_status(
            resource,
            phase=phase_of(Reason.PROVISIONING),
            conditions=[
                *conditions_of(Reason.PROVISIONING, "", SandboxState.CREATING),
                *following.conditions,
            ],
            **following.fields,
            sandbox={
                "state": str(SandboxState.CREATING),
                "attempt": cache.fresh_attempt,
                "sharedBy": None,
                **following.sandbox,
                **kept_snapshots.source_fields(resource, following.policy.values),
            },
            requests=kept_snapshots.restore_fields(resource),
        )
    attempt = resource.status.sandbox.attempt
    certainly_first = cache.fresh_attempt == attempt
    cache.fresh_attempt = None
    new = not resource.may_be_restored or cache.made_here == resource.metadata.uid
    key = idempotency_key(resource.metadata.uid, attempt)
    joins = context.sandboxes.creating(key)
    search = not joins and not (certainly_first and attempt == 1 and new)
    if search and await _adopt(context, resource, cache):
        return
    prepared = (
        resource if joins else await prepared_attempt(context, resource, certainly_first=certainly_first)
    )
    if prepared is None:
        return
    resource = prepared
    policy, base_url = context.full_policy(resource), context.queue.base_url
    request = sandbox_request(resource, policy, attempt, context.installation_id, base_url)
    try:
        async with reporting_start(context, resource):
            created = await context.sandboxes.create(request, key)
    except OperationError as error:
        await _create_failed(context, resource, cache, error, repeated=not certainly_first)
        return
    if not certainly_first and await context.sandboxes.info(created.sandbox_id) is None:
        # E2B repeated its answer to the idempotency key, but that sandbox has been killed since.
        await context.records.write_status(resource, sandbox={"state": None})
        return
    await _record(context, resource, cache, created, attempt=attempt)


async def _create_failed(
    context: Context,
    resource: ManagedSession,
    cache: SessionCache,
    error: OperationError,
    *,
    repeated: bool,
) -> None:
    """Record the failure of an attempt that is over and has no sandbox after all; else raise the error."""
    if error.ends_attempt(repeated=repeated):
        if error.status in (409, 422) and await _adopt(context, resource, cache):
            return
        await record_failed_create(context, resource, error)
        return
    raise error


async def _found(context: Context, resource: ManagedSession) -> list[SandboxView]:
    """Return the resource's sandboxes that may be adopted, best first."""
    known = resource.status.sandbox
    listed = await context.sandboxes.list(sandbox_metadata(resource, context.installation_id))
    # The files of sandboxes that had vanished are what somebody who restores does not want any more.
    vanished = [] if kept_snapshots.is_restoring(resource) else known.vanished
    return adoption_order(listed, attempt=known.attempt, vanished=vanished)


async def _adopt(context: Context, resource: ManagedSession, cache: SessionCache) -> bool:
    """Adopt a sandbox that the search by metadata finds."""
    found = await _found(context, resource)
    adopted = await connect_first(context, resource, found, resource.status.sandbox.vanished)
    if adopted is None:
        return False
    chosen, connected = adopted
    await _record(context, resource, cache, connected, attempt=chosen.attempt)
    return True


async def _record(
    context: Context,
    resource: ManagedSession,
    cache: SessionCache,
    sandbox: SandboxHandle,
    *,
    attempt: int,
) -> None:
    """Record the sandbox's ID. From here on the sandbox belongs to the resource."""
    told, before = policy_when_found(context, resource, sandbox.sandbox_id), resource.status.sandbox
    policy, status = told.policy.values, resource.status
    # The attempt's request may be older than the policy.
    recorded = status.effective.to_json() if status.effective is not None and before.created_with else {}
    template = (told.fields.get("effective") or recorded).get("template", policy.template)
    conditions = [*conditions_of(Reason.PROVISIONING, "", SandboxState.RUNNING), *told.conditions]
    if sandbox.sandbox_id in before.vanished:
        conditions.append(
            workspace_regained(f"Sandbox {sandbox.sandbox_id}, which had vanished, has reappeared.")
        )
    elif (went_back := kept_snapshots.went_back(resource)) is not None:
        conditions.append(workspace_rolled_back(went_back))
    of_another = attempt != before.attempt and before.created_with is not None
    resource = await context.records.write_status(
        resource,
        conditions=conditions,
        **told.fields,
        sandbox={
            **told.sandbox,
            # With which values a sandbox of another attempt was created is not known any more.
            **({"createdWith": dict.fromkeys(before.created_with or {})} if of_another else {}),
            **({"fromSnapshot": None, "unclean": None} if sandbox.sandbox_id in before.vanished else {}),
            "id": sandbox.sandbox_id,
            "state": str(SandboxState.RUNNING),
            "attempt": max(attempt, before.attempt),
            "templateID": template,
            "startedAt": context.now(),
            **NEVER_PAUSED,
            "vanished": [each for each in before.vanished if each != sandbox.sandbox_id],
        },
    )
    cache.connect(sandbox, policy.timeout_seconds, context.now())
    cache.settle(context.listings.findings)
    log_assigned(resource, sandbox.sandbox_id, "created")
    message = f"Created sandbox {sandbox.sandbox_id} from {before.from_snapshot or template}."
    context.event(resource, Reason.SANDBOX_CREATED, message)


async def resolve_create(context: Context, resource: ManagedSession) -> float | None:
    """Find out what became of a create whose sandbox is no longer needed, and record it."""
    views = await _found(context, resource)
    context.cache(resource.metadata.name).settle(context.listings.findings)
    if not views:
        await context.records.write_status(resource, sandbox={"state": None})
        context.capacity.release(resource.metadata.name)
        return None
    chosen = views[0]
    state = SandboxState.PAUSED if chosen.paused else SandboxState.RUNNING
    await context.records.write_status(
        resource,
        sandbox={
            "id": chosen.sandbox_id,
            "state": str(state),
            "attempt": chosen.attempt,
            "templateID": context.policy(resource).template,
            "startedAt": chosen.started_at,
            **(saved_pause(chosen, context.now()) if chosen.paused else NEVER_PAUSED),
        },
    )
    return None


async def pause(context: Context, resource: ManagedSession) -> float | None:
    """Pause the recorded sandbox, confirm that it is paused, and free its slot."""
    name, sandbox_id = resource.metadata.name, resource.status.sandbox.id
    if sandbox_id is None:
        context.cache(name).disconnect()
        context.cache(name).settle(context.listings.findings)
        context.capacity.release(name)
        await context.records.write_status(resource, sandbox={"state": None})
        return None
    view = await pause_sandbox(context, resource, sandbox_id)
    if view is None:
        await record_loss(context, resource)
        return None
    conditions = saved_conditions(context, resource, view)
    context.cache(name).disconnect()
    context.capacity.release(name)
    await context.records.write_status(
        resource, conditions=conditions, sandbox=saved_sandbox(view, context.now())
    )
    return None


async def suspend(context: Context, resource: ManagedSession) -> float | None:
    """Stop the worker at once and pause the sandbox.

    A graceful stop in the middle of a turn would leave the session stuck.
    """
    name, work = resource.metadata.name, resource.status.work
    sandbox = context.cache(name).sandbox
    if claim_active(resource):
        if resource.status.sandbox.shared_by is not None and sandbox is None:
            # Its sandbox may go on for other sessions, so that no pause stops the worker.
            async with context.sharing.turn(resource):
                sandbox = await running_handle(context, resource)
        if sandbox is not None and work.claim is not None and work.acknowledged_at is not None:
            await stop_worker(context, sandbox, work.claim, certainly=has_company(context, resource))
        await context.runs.forget(name)
        unstarted = work.acknowledged_at is not None and work.first_heartbeat_at is None
        if work.id is not None and unstarted and resource.status.ended_at is not None:
            # No worker will be started for the item, and the queue does not offer it again.
            await context.queue.stop_held(work.id)
            ended = {"finishedAt": context.now(), "exitReason": ExitReason.SESSION_ENDED, **NO_WAIT}
            resource = await context.records.write_status(resource, work=ended)
        elif work.first_heartbeat_at is not None:
            resource = await context.records.write_status(
                resource,
                work={"finishedAt": context.now(), "exitReason": ExitReason.SUSPENDED, **NO_WAIT},
                recovery={"suspectedAt": context.now()},
            )
    return await pause(context, resource)


async def stop_worker(
    context: Context, sandbox: SandboxHandle, claim: str, *, certainly: bool = False
) -> None:
    """Stop the worker. Unless it must stop `certainly`, an error is only logged: a pause follows."""
    try:
        await context.runs.stop(sandbox, claim, context.epoch())
    except OperationError as error:
        if certainly:
            raise
        logger.warning("worker not stopped", extra={"claim": claim, "cause": str(error)})


async def extend(context: Context, resource: ManagedSession) -> float | None:
    """Restart the running sandbox's countdown, well before it ends."""
    name, sandbox_id = resource.metadata.name, resource.status.sandbox.id
    cache, timeout = context.cache(name), context.policy(resource).timeout_seconds
    if sandbox_id is None or cache.sandbox is None:
        return None
    try:
        seconds = await extension(context, resource, sandbox_id, timeout)
        if seconds is None:
            await context.runs.forget(name)
            cache.disconnect()
            return None
        await context.sandboxes.extend(sandbox_id, seconds)
    except OperationError as error:
        if error.kind is not ErrorKind.NOT_FOUND and error.status != 404:
            raise
        # The sandbox no longer runs. The next steps find out whether it is paused or gone.
        await context.runs.forget(name)
        cache.disconnect()
        return None
    cache.connect(cache.sandbox, timeout, context.now())
    return None
