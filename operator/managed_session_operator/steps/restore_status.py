"""Restores a status that somebody removed, as far as it can be found out again."""

from __future__ import annotations

from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_operator.domain.conditions import conditions_of, phase_of
from managed_session_operator.domain.worker_run import WorkerRun
from managed_session_operator.steps.class_policy import next_policy
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.sandbox import resolve_create


async def restore(context: Context, resource: ManagedSession) -> float | None:
    """Record the worker whose stream this process has open, or else the sandbox that E2B lists."""
    run = context.runs.any(resource.metadata.name)
    if run is None or resource.status.work.claim is not None:
        return await resolve_create(context, resource)
    return await _restore_claim(context, resource, run)


async def _restore_claim(context: Context, resource: ManagedSession, run: WorkerRun) -> float | None:
    """Record the running claim again. The number of turns and of attempts is lost."""
    name = resource.metadata.name
    view = await context.sandboxes.info(run.sandbox_id)
    item = (await context.queue.items()).of_session(resource.spec.session_id)
    if view is None or item is None:
        await context.runs.forget(name)
        context.cache(name).disconnect()
        return None
    now, following = context.now(), next_policy(context, resource)
    policy = following.policy
    await context.records.write_status(
        resource,
        phase=phase_of(Reason.RUNNING),
        conditions=[*conditions_of(Reason.RUNNING, "", SandboxState.RUNNING), *following.conditions],
        **following.fields,
        work={
            "id": item.work_id,
            "claim": run.claim,
            "offeredAt": item.created_at,
            "acknowledgedAt": item.acknowledged_at or now,
            "startedAt": now,
            "firstHeartbeatAt": now if run.heartbeat else None,
            "servingLateSince": now if run.late else None,
            "attempts": 1,
        },
        sandbox={
            "id": view.sandbox_id,
            "state": str(SandboxState.RUNNING),
            "attempt": view.attempt,
            "sharedBy": view.metadata.get(names.METADATA_SHARED),
            "templateID": policy.values.template,
            # With which values the sandbox was created is not known any more.
            **({"createdWith": {}} if policy.classed else {}),
            "startedAt": view.started_at,
        },
    )
    return None
