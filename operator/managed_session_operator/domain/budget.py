"""Tells whether a session is paused because its budget is used up.

Such a session is not stuck, and the operator has nothing to do. When the budget is raised or removed,
Anthropic continues the session and queues its work.
"""

from __future__ import annotations

from decimal import Decimal

from managed_session_api import events
from managed_session_api.resource import CostStatus, ManagedSession

from managed_session_operator.domain.cost import money
from managed_session_operator.domain.session import SessionView
from managed_session_operator.domain.turn import BUDGET_REACHED
from managed_session_operator.domain.usage import Usage

_REMEDY = "Raise or remove it to continue the session."


def budget_reached(resource: ManagedSession) -> bool:
    """Return whether the newest turn's end, or an event after it, says that the budget is used up.

    An inspection of the session settles what was reported before it.
    """
    event, work = resource.status.last_event, resource.status.work
    settled = (work.finished_at, resource.status.recovery.checked_at)
    reported = event is not None and event.type == events.BUDGET_REACHED
    if event is not None and reported and all(at is None or event.created_at > at for at in settled):
        return True
    return work.stop_reason == BUDGET_REACHED


def was_raised(session: SessionView) -> bool:
    """Return whether a session whose budget was used up may go on, or does so already."""
    goes_on = session.status in ("running", "rescheduling")
    return goes_on or (session.usage is not None and session.usage.within_budget)


def message(resource: ManagedSession, usage: Usage | None = None) -> str:
    """Describe a used-up budget. `usage`: what was read of the session and is not recorded yet."""
    cost = resource.status.cost or CostStatus()
    budget, spent, currency = cost.budget, cost.list_cost, cost.currency
    if usage is not None and usage.list_cost is not None:
        budget = str(usage.budget) if usage.budget is not None else None
        spent, currency = str(usage.list_cost), usage.currency
    if budget is None or spent is None:
        return f"The session's budget is used up. {_REMEDY}"
    limit, cost_so_far = (money(Decimal(each) / 100, currency or "USD") for each in (budget, spent))
    return f"The session's budget of {limit} is used up: it has cost {cost_so_far}. {_REMEDY}"
