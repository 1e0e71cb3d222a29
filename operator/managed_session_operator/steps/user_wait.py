"""Records when a worker begins and ceases to wait for its session's user."""

from __future__ import annotations

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_operator.domain.conditions import conditions_of, phase_of
from managed_session_operator.domain.user_wait import words
from managed_session_operator.steps.context import Context


async def record_user_wait(context: Context, resource: ManagedSession) -> float | None:
    """Record since when the worker has been waiting, by the operator's clock, or that it no longer waits."""
    run = context.runs.get(resource.metadata.name, resource.status.work.claim)
    if run is None:
        return None
    since = (resource.status.work.awaiting_user_since or context.now()) if run.awaiting else None
    reason = Reason.AWAITING_USER if since is not None else Reason.RUNNING
    message = words(since, run.awaiting) if since is not None else ""
    resource = await context.records.write_status(
        resource,
        phase=phase_of(reason),
        conditions=conditions_of(reason, message, SandboxState.RUNNING),
        work={"awaitingUserSince": since, "awaitedAnswers": list(run.awaiting) or None},
    )
    if since is not None:
        context.event(resource, reason, message)
    return None
