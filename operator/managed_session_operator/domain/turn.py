"""Finds out from a session's newest events who has to act next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from managed_session_api.times import as_utc

from managed_session_operator.domain.thread_calls import ThreadCalls
from managed_session_operator.domain.usage import Usage

BUDGET_REACHED = "budget_reached"
"""Stop reason of a turn that continues once the session's budget is raised or removed."""


class Awaited(StrEnum):
    """Who has to act next in a session."""

    NOBODY = "nobody"
    """The last turn has ended, or there was none."""
    USER = "user"
    """The agent waits for a confirmation, or for the result of a tool that workers do not run."""
    RESULTS = "results"
    """The agent waits for results of tool calls that only a worker can run."""
    AGENT = "agent"
    """The session is running, or has a message that the agent has not read yet."""
    UNKNOWN = "unknown"
    """The session has a status that this version does not know, so nothing is concluded from it."""


@dataclass(frozen=True)
class Turn:
    """The state of a session's newest turn.

    Attributes:
        awaited: who has to act next.
        newest_event: ID of the newest event. If it is unchanged, nothing has happened.
        open_calls: ID and tool of each thread's oldest open call for a worker, which runs the calls of a
            thread in order, and those of different threads at the same time.
        stop_reason: why the turn ended, in Anthropic's words; empty if the session is not idle.
        usage: what the session has used, if an event near the newest says so.
    """

    awaited: Awaited
    newest_event: str = ""
    open_calls: tuple[tuple[str, str], ...] = ()
    stop_reason: str = ""
    usage: Usage | None = field(default=None, compare=False)

    @property
    def needs_worker(self) -> bool:
        """Whether the turn can only continue if a worker serves the session."""
        return self.awaited in (Awaited.AGENT, Awaited.RESULTS)


@dataclass(frozen=True)
class Inspection:
    """What the operator saw when it inspected a session.

    Attributes:
        turn: the state of the newest turn.
        at: time of the last inspection.
        since: time of the first inspection in a row that found this state.
    """

    turn: Turn
    at: datetime
    since: datetime

    def again(self, turn: Turn, at: datetime) -> Inspection:
        """Return the inspection after the session was read once more."""
        return Inspection(turn, at, self.since if turn == self.turn else at)


NEWEST_EVENTS = 200
"""Maximum number of events to read, newest first. A turn's end is nearly always among the first few."""

_ASKS = ("user.message", "user.define_outcome")
_ANSWERS = ("user.tool_result", "user.custom_tool_result", "user.tool_confirmation")
_WORKING = ("session.status_running", "session.status_rescheduled")
_ENDED = ("session.status_terminated", "session.deleted", "user.interrupt")


class TurnReader:
    """Reads a session's events, newest first, until the state of the turn is known."""

    def __init__(self) -> None:
        self._newest = ""
        self._confirmed: set[str] = set()
        self._open: set[str] | None = None
        self._for_worker: dict[str, tuple[str, str]] = {}
        self._answered_since = False
        self._threads = ThreadCalls()

    def read(self, event: Any) -> Turn | None:
        """Read one event. Return the turn once it is known."""
        kind, identifier = _text(event, "type"), _text(event, "id")
        self._newest = self._newest or identifier
        if self._open is not None:
            return self._find_call(kind, identifier, event)
        self._threads.read(kind, event)
        if kind == "user.tool_confirmation" and getattr(event, "result", None) == "allow":
            self._confirmed.add(_text(event, "tool_use_id"))
        elif kind in _ANSWERS:
            self._answered_since = True
        elif kind in _ASKS:
            return self._turn(Awaited.AGENT)
        elif kind in _ENDED and not (kind == "user.interrupt" and _text(event, "session_thread_id")):
            return self._turn(Awaited.AGENT if self._answered_since else Awaited.NOBODY)
        elif kind.startswith("session.status_"):
            return self._read_status(kind, event)
        return None

    def _read_status(self, kind: str, event: Any) -> Turn | None:
        """Read the session's newest status."""
        if kind in _WORKING:
            return self._read_threads()
        if kind != "session.status_idle":
            return self._turn(Awaited.UNKNOWN)
        reason = getattr(event, "stop_reason", None)
        if getattr(reason, "type", None) != "requires_action":
            return Turn(Awaited.NOBODY, self._newest, stop_reason=_text(reason, "type"))
        if self._answered_since:
            return self._turn(Awaited.AGENT)
        self._open = {str(each) for each in getattr(reason, "event_ids", None) or ()}
        return None

    def _read_threads(self) -> Turn | None:
        """Judge a running session: either its agent works, or threads of sub-agents may wait for results."""
        if self._answered_since or not self._threads.waiting:
            return self._turn(Awaited.AGENT)
        self._open = set(self._threads.waiting)
        for call in self._threads.calls:
            if (turn := self._find_call(_text(call, "type"), _text(call, "id"), call)) is not None:
                return turn
        return None

    def end(self) -> Turn:
        """Return the turn when no more events are read. Open calls not found by then are not for a worker."""
        if self._open is None:
            return self._turn(Awaited.NOBODY)
        if not self._for_worker:
            return self._turn(Awaited.USER)
        return Turn(Awaited.RESULTS, self._newest, tuple(self._for_worker.values()))

    def _find_call(self, kind: str, identifier: str, event: Any) -> Turn | None:
        if self._open is None or identifier not in self._open:
            return None
        self._open.discard(identifier)
        permission = getattr(event, "evaluated_permission", None)
        # A worker does not run a denied call. It runs a call that asks for permission once the user has
        # allowed it. A permission that neither we nor the SDK know is treated like one that asks.
        asks = permission not in (None, "allow", "deny")
        worker_may = permission in (None, "allow") or (asks and identifier in self._confirmed)
        if kind == "agent.tool_use" and worker_may:
            self._for_worker[_text(event, "session_thread_id")] = (identifier, _text(event, "name"))
        return None if self._open else self.end()

    def _turn(self, awaited: Awaited) -> Turn:
        return Turn(awaited, self._newest)


def _text(event: Any, field: str) -> str:
    """Return a field of an event; empty if the SDK does not know the event and has left the field out."""
    value = getattr(event, field, None)
    return value if isinstance(value, str) else ""


def read_turn(events: Iterable[Any]) -> Turn:
    """Return the state of the newest turn, from events in the order newest first."""
    reader = TurnReader()
    for event in events:
        if (turn := reader.read(event)) is not None:
            return turn
    return reader.end()


def is_oldest_first(events: Sequence[Any]) -> bool:
    """Return whether events that were requested newest first arrived oldest first."""
    times = [at for at in map(time_of, events) if at is not None]
    return len(times) > 1 and times[0] < times[-1]


def time_of(event: Any) -> datetime | None:
    """Return when the event was processed; None if it was not, or the time makes no sense."""
    at = getattr(event, "processed_at", None)
    try:
        return as_utc(at) if isinstance(at, datetime) else None
    except OverflowError:
        return None
