"""A worker that outlasts E2B's longest running time: its sandbox begins a new running period under it."""

from __future__ import annotations

import logging
from datetime import timedelta

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.context import Context
from managed_session_operator.failures import Failure
from managed_session_operator.steps.sandbox import vanished
from managed_session_operator.steps.worker import watch_or_finish

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 30.0


async def roll_over(context: Context, resource: ManagedSession) -> float | None:
    """Pause the sandbox and resume it at once; its worker and a running tool call go on.

    Memory survives, connections do not: the worker's SDK connects again. Cut off after the pause, the next
    look finds a paused sandbox whose item is still the worker's, and resumes it.
    """
    name, sandbox_id = resource.metadata.name, resource.status.sandbox.id
    memory, timeout = context.memory(name), context.policy(resource).timeout_seconds
    if sandbox_id is None:
        return None
    await context.runs.forget(name)
    try:
        view = await context.sandboxes.pause(sandbox_id)
    except Failure:
        # It runs on, and the worker is listened to again meanwhile.
        again = timedelta(seconds=_AGAIN_SECONDS * context.settings.retry_scale)
        memory.roll_over_not_before = context.now() + again
        raise
    if view is None:
        await vanished(context, resource)
        return None
    memory.disconnect()
    connected = await context.sandboxes.connect(sandbox_id, timeout)
    memory.connect(connected, timeout, context.now())
    # Also where E2B's clock or its `startedAt` knows nothing of the new period.
    memory.roll_over_not_before = context.roll_over_at(name)
    await watch_or_finish(context, resource, connected, view)
    message = f"sandbox {sandbox_id} paused and resumed before E2B's longest running time"
    logger.info("sandbox rolled over", extra={"resource": name, "sandbox": sandbox_id})
    context.event(resource, Reason.SANDBOX_ROLLED_OVER, message)
    return None
