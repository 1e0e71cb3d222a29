"""Judges whether a session's turn lasts longer than its class allows. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from managed_session_api.resource import ManagedSession
from managed_session_worker.protocol import ExitReason

from managed_session_operator.domain.session_cache import SessionCache
from managed_session_operator.domain.turn import time_of

_IN_TURN = ("user.", "agent.", "session.status_running", "session.status_rescheduled")
_ENDED = ("session.status_terminated", "session.deleted", "user.interrupt")

_ANSWERS = ("user.tool_confirmation", "user.custom_tool_result")
"""With these, a turn that is idle for its user goes on."""

INTERRUPT_PATIENCE = timedelta(seconds=60)
"""How long an interrupted turn has to end before its worker is ended."""


class TurnStart:
    """Reads a session's events, newest first, until it is known when the present turn began.

    Args:
        before: reading stops at an event of the turn from before this time: the turn is at least that old.
    """

    def __init__(self, before: datetime) -> None:
        self._before = before
        self._oldest: datetime | None = None
        self._answered_at: datetime | None = None
        self._waited = timedelta()

    @property
    def began(self) -> datetime | None:
        """Time of the oldest event of the present turn so far; None if no turn is open.

        It is later by the time for which the turn has waited for its user.
        """
        return self._oldest + self._waited if self._oldest is not None else None

    def read(self, event: Any) -> bool:
        """Read one event. Return whether no more events are needed."""
        kind = str(getattr(event, "type", "") or "")
        if _ends_turn(kind, event):
            return True
        at = time_of(event)
        if at is None:
            return False
        if kind in _ANSWERS:
            self._answered_at = self._answered_at or at
        elif kind == "session.status_idle" and self._answered_at is not None:
            self._waited += max(timedelta(), self._answered_at - at)
            self._answered_at = None
        if kind.startswith(_IN_TURN):
            self._oldest = at
        return self.began is not None and self.began <= self._before


def _ends_turn(kind: str, event: Any) -> bool:
    if kind == "session.status_idle":
        return getattr(getattr(event, "stop_reason", None), "type", None) != "requires_action"
    return kind in _ENDED and not (kind == "user.interrupt" and getattr(event, "session_thread_id", None))


def check_at(resource: ManagedSession, cache: SessionCache, seconds: int | None) -> datetime | None:
    """Return when to find out whether the turn of a running worker is too long; None without a limit."""
    work = resource.status.work
    if seconds is None or work.first_heartbeat_at is None:
        return None
    if cache.turn_interrupted is not None and cache.turn_interrupted[0] == work.claim:
        return cache.turn_interrupted[1] + INTERRUPT_PATIENCE
    known = cache.turn_began if cache.turn_began is not None and cache.turn_began[0] == work.claim else None
    return (known[1] if known is not None else work.first_heartbeat_at) + timedelta(seconds=seconds)


def checked_for(resource: ManagedSession, seconds: int | None) -> tuple[object, ...]:
    """Return what a check of a turn that was too long depends on, to repeat it after a change."""
    event = resource.status.last_event
    return (resource.status.work.claim, event.id if event is not None else None, seconds)


def was_too_long(resource: ManagedSession) -> bool:
    """Return whether the newest worker was ended because of its turn's length, and the turn may go on."""
    work, checked = resource.status.work, resource.status.recovery.checked_at
    if work.exit_reason != ExitReason.TURN_TOO_LONG or work.finished_at is None:
        return False
    return checked is None or checked <= work.finished_at


def message(seconds: int, *, can_interrupt: bool) -> str:
    """Describe a turn whose worker was ended."""
    ended = f"The turn lasted longer than its class's `maxTurnSeconds` ({seconds}), so its worker was ended."
    tried = " An interrupt had no effect." if can_interrupt else ""
    return f"{ended}{tried} Send the session `user.interrupt` with a Claude API key, or raise the limit."
