"""Reports the conditions of a resource for which there is nothing to do now."""

from __future__ import annotations

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.conditions import conditions_of, phase_of, policy_not_applied
from managed_session_operator.domain.step import Decision
from managed_session_operator.steps.context import Context


async def report_conditions(context: Context, resource: ManagedSession, decision: Decision) -> float | None:
    """Write the decision's reason and message to the conditions, if they have changed."""
    if decision.reason is not None and decision.worth_writing:
        ambiguous = decision.reason is Reason.AMBIGUOUS_CLASS
        policy = [policy_not_applied(decision.reason, decision.message)] if ambiguous else []
        await context.records.write_status(
            resource,
            phase=phase_of(decision.reason),
            conditions=[
                *conditions_of(decision.reason, decision.message, resource.status.sandbox.state),
                *policy,
            ],
        )
    return decision.again_after
