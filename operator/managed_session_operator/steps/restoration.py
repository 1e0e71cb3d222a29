"""A status that somebody removed: what it said is found again where it can be."""

from __future__ import annotations

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_operator.clients.worker_runs import WorkerRun
from managed_session_operator.context import Context
from managed_session_operator.steps.sandbox import resolve_create
from managed_session_operator.steps.standing import phase_of, verdicts_of


async def restore(context: Context, resource: ManagedSession) -> float | None:
    """Write down the worker that this process listens to, or else the sandbox that E2B lists."""
    run = context.runs.any(resource.metadata.name)
    if run is None or resource.status.work.claim is not None:
        return await resolve_create(context, resource)
    return await _restore_claim(context, resource, run)


async def _restore_claim(context: Context, resource: ManagedSession, run: WorkerRun) -> float | None:
    """The counts of turns and attempts are lost; what is being worked on is not."""
    name = resource.metadata.name
    view = await context.sandboxes.info(run.sandbox_id)
    item = (await context.queue.items()).of_session(resource.spec.session_id)
    if view is None or item is None:
        await context.runs.forget(name)
        context.memory(name).disconnect()
        return None
    now = context.now()
    await context.write_status(
        resource,
        phase=phase_of(Reason.RUNNING),
        verdicts=verdicts_of(Reason.RUNNING, "", SandboxState.RUNNING),
        effective=context.policy(resource).to_json(),
        work={
            "id": item.work_id,
            "claim": run.claim,
            "offeredAt": item.created_at,
            "acknowledgedAt": item.acknowledged_at or now,
            "firstHeartbeatAt": now if run.heartbeat else None,
            "attempts": 1,
        },
        sandbox={
            "id": view.sandbox_id,
            "state": str(SandboxState.RUNNING),
            "attempt": view.attempt,
            "templateID": view.template_id,
            "startedAt": view.started_at,
        },
    )
    return None
