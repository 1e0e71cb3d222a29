"""Lists the webhook event types that a ManagedSession records, and orders events.

Source: Claude Managed Agents webhooks, `data.type` of a delivery (Anthropic SDK `BetaWebhookEvent`).
"""

from __future__ import annotations

from managed_session_api.resource import EventStatus

RUN_STARTED = "session.status_run_started"
"""The session entered the status `running`: work is queued for it."""

END_TYPES = ("session.status_terminated", "session.archived", "session.deleted")
"""Events that report the end of a session. The operator confirms the end before it acts."""

BUDGET_REACHED = "session.budget_reached"
"""The session is paused until its budget is raised or removed. An announced run is over."""

RECORDED_TYPES = (RUN_STARTED, BUDGET_REACHED, *END_TYPES)
"""Types that the webhook records, and that the endpoint in the Claude Console subscribes to."""


def is_newer(event: EventStatus, than: EventStatus | None) -> bool:
    """Whether `event` replaces `than` in `status.lastEvent`: by the event's own time, then by type.

    Deliveries are unordered and may be repeated. If two events have the same time, an end wins over a run, so
    that the result does not depend on the order of arrival.
    """
    if than is None:
        return True
    if event.created_at != than.created_at:
        return event.created_at > than.created_at
    return event.type in END_TYPES and than.type not in END_TYPES
