"""Brings the skills of a session's agent into its sandbox before the worker starts."""

from __future__ import annotations

import logging

from managed_session_api.conditions import ConditionStatus, Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.conditions import sandbox_ready
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.skill_delivery import is_without_sandbox

logger = logging.getLogger(__name__)

_PATIENCE = 3
"""Failed starts in a row after which a turn continues without skills that cannot be fetched."""


async def write_skills(context: Context, resource: ManagedSession, sandbox: SandboxHandle) -> ManagedSession:
    """Bring the wanted version of each skill to `<workdir>/skills/<name>/`, once per claim and process.

    Temporary errors are retried with the worker's start. A skill that cannot be fetched is left out: the turn
    continues, and the resource names the skill with the cause.

    Returns:
        The newest resource.

    Raises:
        OperationError: the sandbox does not answer, or a temporary error occurred.
    """
    cache = context.cache(resource.metadata.name)
    served = (sandbox.sandbox_id, resource.status.work.claim)
    if cache.skills_written == served:
        return resource
    patient, missing = cache.failures < _PATIENCE, []
    try:
        if cache.session is None:
            cache.session = await context.sessions.session(resource.spec.session_id)
        if cache.session is not None and cache.session.skills:
            missing = await context.skills.deliver(sandbox, cache.session.skills, patient=patient)
        cache.skills_written = served
    except OperationError as error:
        if (patient and error.kind in (ErrorKind.TRANSIENT, ErrorKind.RATE_LIMITED)) or is_without_sandbox(
            error
        ):
            raise
        missing = [f"its skills: {error.message}"]
    return await _report(context, resource, missing)


async def _report(context: Context, resource: ManagedSession, missing: list[str]) -> ManagedSession:
    """Record which skills the sandbox lacks, if that has changed."""
    if missing == resource.status.sandbox.missing_skills:
        return resource
    resource = await context.records.write_status(
        resource,
        conditions=[sandbox_ready(ConditionStatus.TRUE, Reason.SANDBOX_RUNNING)],
        sandbox={"missingSkills": missing or None},
    )
    if missing:
        message = f"The turn runs without these skills: {'; '.join(missing)}"
        logger.warning("skills missing", extra={"session": resource.spec.session_id, "cause": message})
        context.event(resource, Reason.SKILL_MISSING, message, warning=True)
    return resource
