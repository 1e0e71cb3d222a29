"""Copies the files of the agent's outputs folder to a bucket when a turn ends, before the pause."""

from __future__ import annotations

import logging

from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.conditions import ConditionUpdate
from managed_session_operator.domain.errors import OperationError, UnderWayError
from managed_session_operator.domain.outputs import (
    COPY_SECONDS,
    SECTION,
    NoSuchBucketError,
    copy_plan,
    outputs_condition,
)
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)

_BESIDE_SECONDS = 15.0
"""What the copies may take beside their own time, to be sent and to report."""


async def copy_outputs(context: Context, resource: ManagedSession) -> list[ConditionUpdate]:
    """Copy new and changed files once in this turn, and return what to write about it.

    A failure never holds up the pause.

    Raises:
        UnderWayError: the copies have not ended yet, and may take longer.
    """
    cache = context.cache(resource.metadata.name)
    claim = resource.status.work.claim
    if cache.sandbox is None or (cache.outputs_copied is not None and cache.outputs_copied[0] == claim):
        known = cache.outputs_copied
        return outputs_condition(resource, known[1] if known is not None and known[0] == claim else None)
    now = context.clock.monotonic()
    until = cache.hooks_until.setdefault(SECTION, now + COPY_SECONDS + _BESIDE_SECONDS)
    why: str | None
    try:
        plan = copy_plan(context.policy(resource), resource.spec.session_id)
        if plan is None:
            return outputs_condition(resource, "")
        report = await context.preparations.prepare(cache.sandbox, plan, purpose=SECTION)
        why = report.failed.message() if report.failed is not None else ""
    except NoSuchBucketError as error:
        why = f"{error}."
    except UnderWayError:
        if now < until:
            raise
        why = "The sandbox did not report in time how the copying ended."
    except OperationError as error:
        why = error.message
    if why:
        logger.warning("outputs not copied", extra={"resource": resource.metadata.name, "cause": why})
    cache.outputs_copied = (claim, why)
    return outputs_condition(resource, why)
