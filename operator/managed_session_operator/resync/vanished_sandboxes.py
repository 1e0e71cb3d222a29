"""Keeps vanished sandboxes that E2B has found again, and pauses them."""

from __future__ import annotations

import logging

from managed_session_operator.domain.errors import OperationError, UnderWayError
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.resync.ownership import Owners, is_settled
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)


async def without_vanished(context: Context, views: list[SandboxView], owners: Owners) -> list[SandboxView]:
    """Return the sandboxes without those that had vanished. Pause any of the latter that run.

    They hold a session's files, so they are not killed. The session's next turn adopts them.
    """
    rest = []
    for view in views:
        owner = owners.of(view) if not is_settled(owners.summary_of(view), view) else None
        if owner is None or view.sandbox_id not in owner.status.sandbox.vanished:
            rest.append(view)
        elif not view.paused:
            await _pause(context, view.sandbox_id)
    return rest


async def _pause(context: Context, sandbox_id: str) -> None:
    try:
        await context.sandboxes.pause(sandbox_id)
    except (OperationError, UnderWayError) as error:
        logger.warning("sandbox not paused", extra={"sandbox": sandbox_id, "cause": str(error)})
