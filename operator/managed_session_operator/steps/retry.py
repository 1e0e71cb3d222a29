"""Serves a request to try a session again."""

from __future__ import annotations

from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.retry import conditions_of_retry
from managed_session_operator.steps.context import Context


async def try_again(context: Context, resource: ManagedSession) -> float | None:
    """Forget failures and inspections, count recoveries from zero, and record the request as served.

    The next decision is then made as for a session that never failed. If this process dies before the write,
    the next one serves the request.
    """
    cache = context.cache(resource.metadata.name)
    await context.records.write_status(
        resource,
        conditions=conditions_of_retry(resource),
        requests={"retry": resource.spec.requests.retry},
        recovery={"attempts": 0},
    )
    cache.failures, cache.failing, cache.backoff = 0, None, None
    cache.inspection = None
    return None
