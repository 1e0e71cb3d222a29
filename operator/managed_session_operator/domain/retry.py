"""Decides whether somebody's request to try a session again is still to be served. Pure."""

from __future__ import annotations

from managed_session_api.conditions import ConditionStatus, ConditionType, Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.conditions import ConditionUpdate, not_ready
from managed_session_operator.domain.step import Decision, Step


def decide_retry(resource: ManagedSession) -> Decision | None:
    """Return the step that serves a request for a retry; None if there is none, or the session has ended."""
    wanted, served = resource.spec.requests.retry, resource.status.requests.retry
    if not wanted or wanted == served or resource.status.ended_at is not None:
        return None
    return Decision(Step.TRY_AGAIN)


def conditions_of_retry(resource: ManagedSession) -> list[ConditionUpdate]:
    """Return the conditions of a session that is tried again: none if it is ready."""
    ready = resource.status.condition(ConditionType.READY)
    if ready is None or ready.status is ConditionStatus.TRUE:
        return []
    return [not_ready(Reason.RETRYING, f"Before, it was {ready.reason}: {ready.message}"[:_LONGEST])]


_LONGEST = 500
