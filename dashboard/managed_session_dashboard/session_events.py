"""Holds the Kubernetes Events about sessions, a limited number of them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from managed_session_api import names

from managed_session_dashboard.rows import seconds

_MAX_MESSAGE = 500


class SessionEvent(NamedTuple):
    """A Kubernetes Event about a session."""

    at: float
    """Seconds since the epoch."""
    warning: bool
    reason: str
    message: str
    uid: str
    """Of the ManagedSession."""
    order: int = 0
    """Orders Events of one second: the API server's version of the Event, which grows."""


class SessionEvents:
    """The newest Events of each session.

    The API server deletes Events after an hour, by default. They stay here until newer ones take their place,
    or their session is deleted.

    Args:
        per_session: maximum number for one session.
        total: maximum number for all sessions. The sessions whose Events are oldest lose theirs first.
        changed: called with the session's name after each new Event.
    """

    def __init__(self, *, per_session: int, total: int, changed: Callable[[str], None]) -> None:
        self._per_session = per_session
        self._total = total
        self._changed = changed
        self._events: OrderedDict[str, deque[SessionEvent]] = OrderedDict()
        self._count = 0

    def begin(self) -> None:
        """Keep what is there: a list never has fewer Events than what was watched."""

    def end(self) -> None:
        """Keep what is there."""

    def remove(self, body: Mapping[str, Any]) -> None:
        """Keep an Event that the API server has deleted because of its age."""

    def put(self, body: Mapping[str, Any]) -> None:
        """Take an Event, unless it is about something else."""
        about = body.get("involvedObject") or {}
        at = _time_of(body)
        if about.get("kind") != names.KIND or at is None:
            return
        event = SessionEvent(
            at,
            body.get("type") == "Warning",
            str(body.get("reason", "")),
            str(body.get("message", ""))[:_MAX_MESSAGE],
            str(about.get("uid", "")),
            _order_of(body),
        )
        self._add(str(about.get("name")), event)

    def of(self, name: str, uid: str) -> list[SessionEvent]:
        """Return the Events of a session, oldest first."""
        found = [event for event in self._events.get(name, ()) if event.uid == uid]
        return sorted(found, key=lambda event: (event.at, event.order))

    def keep_only(self, sessions: Collection[str]) -> None:
        """Forget the Events of all sessions but these."""
        for name in [each for each in self._events if each not in sessions]:
            self.forget(name)

    def forget(self, name: str) -> None:
        """Forget the Events of a deleted session."""
        self._count -= len(self._events.pop(name, ()))

    def _add(self, name: str, event: SessionEvent) -> None:
        known = self._events.setdefault(name, deque())
        if event in known:
            return
        known.append(event)
        self._count += 1
        self._events.move_to_end(name)
        if len(known) > self._per_session:
            known.popleft()
            self._count -= 1
        while self._count > self._total:
            self._forget_oldest()
        self._changed(name)

    def _forget_oldest(self) -> None:
        name = next(iter(self._events))
        self._events[name].popleft()
        self._count -= 1
        if not self._events[name]:
            del self._events[name]


def _order_of(body: Mapping[str, Any]) -> int:
    version = str((body.get("metadata") or {}).get("resourceVersion", ""))
    return int(version) if version.isdecimal() else 0


def _time_of(body: Mapping[str, Any]) -> float | None:
    for key in ("lastTimestamp", "eventTime", "firstTimestamp"):
        at = seconds(body.get(key))
        if at is not None:
            return at
    return seconds((body.get("metadata") or {}).get("creationTimestamp"))
