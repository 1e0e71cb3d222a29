"""Rolls a sandbox over, so that its worker can outlast E2B's longest running time."""

from __future__ import annotations

import logging
from datetime import timedelta

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.observe import roll_over_at
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.sandbox_connection import connect, pause_sandbox
from managed_session_operator.steps.sandbox_loss import record_loss
from managed_session_operator.steps.snapshot import saved_conditions, saved_sandbox
from managed_session_operator.steps.worker_stream import watch_or_finish

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 30.0


async def roll_over(context: Context, resource: ManagedSession) -> float | None:
    """Pause the sandbox and resume it at once. Its worker and a running tool call continue.

    Memory survives, connections do not: the worker's SDK connects again. If this step is interrupted after
    the pause, the next reconciliation finds a paused sandbox whose worker still holds the lease, and resumes
    it.
    """
    name, sandbox_id = resource.metadata.name, resource.status.sandbox.id
    cache, timeout = context.cache(name), context.policy(resource).timeout_seconds
    if sandbox_id is None:
        return None
    await context.runs.forget(name)
    try:
        view = await pause_sandbox(context, resource, sandbox_id, for_all=True)
    except OperationError:
        # The sandbox keeps running. The next step opens the worker's stream again.
        again = timedelta(seconds=_AGAIN_SECONDS * context.settings.retry_scale)
        cache.roll_over_not_before = context.now() + again
        raise
    if view is None:
        await record_loss(context, resource)
        return None
    if conditions := saved_conditions(context, resource, view):
        # Recorded before the resume, after which E2B no longer shows that the sandbox was rolled back.
        resource = await context.records.write_status(
            resource, conditions=conditions, sandbox=saved_sandbox(view, context.now())
        )
    cache.disconnect()
    cache.resume_unreported = True
    reached = await connect(context, resource, sandbox_id)
    if reached is None:
        return None
    resource, connected = reached
    cache.connect(connected, timeout, context.now())
    # E2B may report the start of the old period. That must not cause another roll-over at once.
    cache.roll_over_not_before = roll_over_at(cache, context.settings)
    await watch_or_finish(context, resource, connected, None if conditions else view)
    message = f"Paused and resumed sandbox {sandbox_id} to restart E2B's limit on running time."
    logger.info("sandbox rolled over", extra={"resource": name, "sandbox": sandbox_id})
    context.event(resource, Reason.SANDBOX_ROLLED_OVER, message)
    return None
