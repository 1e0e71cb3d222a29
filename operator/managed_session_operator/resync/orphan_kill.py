"""Kills a sandbox that nobody needs."""

from __future__ import annotations

import logging

from managed_session_operator.domain.errors import OperationError
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)


async def kill_orphan(context: Context, sandbox_id: str) -> None:
    """Kill the sandbox and count it. An error is only logged: the next resync finds it again."""
    logger.warning("killing an orphaned sandbox", extra={"sandbox": sandbox_id})
    try:
        await context.sandboxes.kill(sandbox_id)
    except OperationError as error:
        logger.warning("sandbox not killed", extra={"sandbox": sandbox_id, "cause": str(error)})
    else:
        context.metrics.orphans_killed.inc()
