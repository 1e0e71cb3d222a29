"""Records that a worker serves, without a lease, a message that came while its item was being stopped."""

from __future__ import annotations

import logging

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)


async def record(context: Context, resource: ManagedSession) -> float | None:
    """Record it, so that the stopped item is not taken for the worker's end, for which newer work waits."""
    claim = resource.status.work.claim
    resource = await context.records.write_status(resource, work={"servingLateSince": context.now()})
    logger.info("worker serves late", extra={"session": resource.spec.session_id, "claim": claim})
    message = "A message arrived while the session's work was being stopped. The worker serves it."
    context.event(resource, Reason.SERVING_LATE_MESSAGE, message)
    return None
