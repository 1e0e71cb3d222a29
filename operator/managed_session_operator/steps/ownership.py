"""Takes ownership of our sessions' resources. Refuses or deletes those of other environments."""

from __future__ import annotations

import logging
from typing import Any

from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.decide import has_announced_run
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.session import SessionView
from managed_session_operator.domain.step import Decision, Step
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.report_conditions import report_conditions

logger = logging.getLogger(__name__)

_RECHECK_SECONDS = 300.0


async def _take(context: Context, resource: ManagedSession, agent_id: str | None) -> None:
    """Set the resource's environment, and its finalizer before the first effect outside Kubernetes."""
    spec: dict[str, Any] = {}
    if resource.spec.environment_id is None:
        spec["environmentID"] = context.queue.environment_id
    if agent_id is not None and resource.spec.agent_id is None:
        spec["agentID"] = agent_id
    finalizers = [*resource.metadata.finalizers]
    if names.FINALIZER not in finalizers:
        finalizers.append(names.FINALIZER)
    annotations = {names.ANNOTATION_IDENTITY: resource.identity}
    await context.records.patch(
        resource, {"metadata": {"finalizers": finalizers, "annotations": annotations}, "spec": spec}
    )


async def take_ownership(context: Context, resource: ManagedSession) -> float | None:
    """Take ownership without asking: our environment's queue has offered the session's work."""
    await _take(context, resource, None)
    return None


async def verify_ownership(context: Context, resource: ManagedSession) -> float | None:
    """Ask Anthropic whose session it is. Delete the resource if a webhook created it and it is not ours."""
    cache, event = context.cache(resource.metadata.name), resource.status.last_event
    asked_for = (
        resource.metadata.generation,
        event.id if event is not None else None,
        context.queue.environment_id,
        context.queue.key_lines(),
    )
    known = cache.not_ours
    if known is not None and known[1] == asked_for and (left := known[0] - context.clock.monotonic()) > 0:
        # Each resync reconciles every resource, which should not cost a call to Anthropic each time.
        return left
    session = await _visible_session(context, resource.spec.session_id)
    if session is not None and session.environment_id == context.queue.environment_id:
        cache.session = session
        if not has_announced_run(resource) and await _may_be_stuck(context, resource):
            # Without this, nothing would make the operator inspect the session.
            resource = await context.records.write_status(resource, recovery={"suspectedAt": context.now()})
        await _take(context, resource, session.agent_id)
        return None
    if resource.spec.environment_id is None:
        logger.info(
            "deleting the resource of a session of another environment",
            extra={"resource": resource.metadata.name, "session": resource.spec.session_id},
        )
        await context.records.delete(resource)
        return None
    if session is None:
        refusal = Decision(Step.REFUSE, Reason.SESSION_ENDED, "The environment has no such session.")
    else:
        refusal = Decision(
            Step.REFUSE,
            Reason.ENVIRONMENT_MISMATCH,
            f"The session belongs to environment {session.environment_id}.",
        )
    await report_conditions(context, resource, refusal)
    cache.not_ours = (context.clock.monotonic() + _RECHECK_SECONDS, asked_for)
    return _RECHECK_SECONDS


async def _may_be_stuck(context: Context, resource: ManagedSession) -> bool:
    """Return whether the session of a new resource may be in a turn that began under another resource."""
    try:
        turn = await context.sessions.turn(resource.spec.session_id)
    except OperationError as error:
        logger.info("turn not read", extra={"resource": resource.metadata.name, "cause": str(error)})
        return True
    return turn is not None and turn.needs_worker


async def _visible_session(context: Context, session_id: str) -> SessionView | None:
    """Return the session; None if there is none, or the environment key may not read it."""
    try:
        return await context.sessions.session(session_id)
    except OperationError as error:
        if error.status != 403:
            raise
        return None
