"""Tells whether a session is paused because its budget is used up.

Such a session is not stuck, and the operator has nothing to do. When the budget is raised or removed,
Anthropic continues the session and queues its work.
"""

from __future__ import annotations

from managed_session_api import events
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.turn import BUDGET_REACHED

MESSAGE = "The session's budget is used up. Raise or remove it to continue the session."


def budget_reached(resource: ManagedSession) -> bool:
    """Return whether the newest turn's end, or an event after it, says that the budget is used up."""
    event, work = resource.status.last_event, resource.status.work
    reported = event is not None and event.type == events.BUDGET_REACHED
    if event is not None and reported and (work.finished_at is None or event.created_at > work.finished_at):
        return True
    return work.stop_reason == BUDGET_REACHED
