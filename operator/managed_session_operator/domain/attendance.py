"""Says whether a person works in a session's sandbox at the moment. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from managed_session_api.conditions import Reason
from managed_session_api.names import ANNOTATION_ATTENDED
from managed_session_api.resource import ManagedSession
from managed_session_api.times import as_utc

from managed_session_operator.domain.step import Decision, Step

LONGEST = timedelta(minutes=15)
"""A time further away is ignored: whoever has written it does not renew it."""


def attended_until(resource: ManagedSession, now: datetime) -> datetime | None:
    """Return until when somebody works in the sandbox; None if nobody does."""
    given = resource.metadata.annotations.get(ANNOTATION_ATTENDED, "")
    try:
        until = as_utc(datetime.fromisoformat(given))
    except ValueError:
        return None
    return until if now < until <= now + LONGEST else None


def pause_unless_attended(resource: ManagedSession, now: datetime) -> Decision:
    """Return what to do with a sandbox that runs, although its session has no work."""
    until = attended_until(resource, now)
    if until is None:
        return Decision(Step.PAUSE)
    message = f"Somebody works in the sandbox, at least until {until:%Y-%m-%dT%H:%M:%SZ}."
    return Decision(Step.WAIT, Reason.IDLE, message, (until - now).total_seconds(), worth_writing=False)
