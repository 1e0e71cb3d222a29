"""Webhook event types that matter to a ManagedSession, and the order between two events.

Source: Claude Managed Agents webhooks, `data.type` of a delivery (Anthropic SDK `BetaWebhookEvent`).
"""

from __future__ import annotations

from managed_session_api.resource import EventStatus

RUN_STARTED = "session.status_run_started"
"""The session went to `running`: work is queued for it."""

END_TYPES = frozenset({"session.status_terminated", "session.archived", "session.deleted"})
"""The session is said to have ended; the operator confirms that before it acts."""

NOTED_TYPES = frozenset({RUN_STARTED}) | END_TYPES


def is_newer(event: EventStatus, than: EventStatus | None) -> bool:
    """Whether `event` replaces `than` in `status.lastEvent`: by the event's own time, then by type.

    Deliveries are unordered and repeated. Of two events at one instant an end wins over a run, so that
    the outcome does not depend on the order of arrival.
    """
    if than is None:
        return True
    if event.created_at != than.created_at:
        return event.created_at > than.created_at
    return event.type in END_TYPES and than.type not in END_TYPES
