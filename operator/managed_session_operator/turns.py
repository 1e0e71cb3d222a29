"""Who has to act next in a session, read from its newest events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Awaited(StrEnum):
    """Who has to act next in a session."""

    NOBODY = "nobody"
    """The last turn ended in order, or there was none."""
    USER = "user"
    """The agent waits for a confirmation, or for a tool that is not a worker's."""
    RESULTS = "results"
    """The agent waits for results of tool calls that only a worker gives."""
    AGENT = "agent"
    """The session runs, or a message has not been taken up yet."""


@dataclass(frozen=True)
class Turn:
    """How a session's newest turn stands.

    Attributes:
        awaited: who has to act.
        newest_event: ID of the newest event; the same again means that nothing happened.
    """

    awaited: Awaited
    newest_event: str = ""

    @property
    def needs_worker(self) -> bool:
        """Whether it goes on only where the session is served."""
        return self.awaited in (Awaited.AGENT, Awaited.RESULTS)


@dataclass(frozen=True)
class Look:
    """What the operator saw when it looked at a session.

    Attributes:
        turn: how it stood.
        at: when it was looked at last.
        since: when it was first seen to stand exactly so.
    """

    turn: Turn
    at: datetime
    since: datetime

    def again(self, turn: Turn, at: datetime) -> Look:
        """The look after one more question."""
        return Look(turn, at, self.since if turn == self.turn else at)


NEWEST_EVENTS = 200
"""Events that are read at most, newest first; a turn's end is nearly always among the first few."""

_ASKS = ("user.message", "user.define_outcome")
_ANSWERS = ("user.tool_result", "user.custom_tool_result", "user.tool_confirmation")
_WORKING = ("session.status_running", "session.status_rescheduled")
_ENDED = ("session.status_terminated", "session.deleted", "user.interrupt")


class TurnReader:
    """Takes a session's events, newest first, until it knows enough."""

    def __init__(self) -> None:
        self._newest = ""
        self._confirmed: set[str] = set()
        self._open: set[str] | None = None
        self._for_worker = False
        self._later_word = False

    def read(self, event: Any) -> Turn | None:
        """Take one event; the turn once it is known."""
        kind, identifier = str(event.type), str(event.id)
        self._newest = self._newest or identifier
        if self._open is not None:
            return self._find_call(kind, identifier, event)
        if kind == "user.tool_confirmation" and getattr(event, "result", None) == "allow":
            self._confirmed.add(str(event.tool_use_id))
        elif kind in _ANSWERS:
            self._later_word = True
        elif kind in _ASKS or kind in _WORKING:
            return self._turn(Awaited.AGENT)
        elif kind in _ENDED:
            return self._turn(Awaited.AGENT if self._later_word else Awaited.NOBODY)
        elif kind == "session.status_idle":
            reason = getattr(event, "stop_reason", None)
            if getattr(reason, "type", None) != "requires_action":
                return self._turn(Awaited.NOBODY)
            if self._later_word:
                return self._turn(Awaited.AGENT)
            self._open = {str(each) for each in getattr(reason, "event_ids", None) or ()}
        return None

    def end(self) -> Turn:
        """The turn when there are no more events, or too many: unseen calls are no worker's."""
        if self._open is None:
            return self._turn(Awaited.NOBODY)
        return self._turn(Awaited.RESULTS if self._for_worker else Awaited.USER)

    def _find_call(self, kind: str, identifier: str, event: Any) -> Turn | None:
        if self._open is None or identifier not in self._open:
            return None
        self._open.discard(identifier)
        permission = getattr(event, "evaluated_permission", None)
        # A call whose permission was refused gets no result; one that asks is a worker's once it is allowed.
        worker_may = permission == "allow" or (permission == "ask" and identifier in self._confirmed)
        self._for_worker |= kind == "agent.tool_use" and worker_may
        return self.end() if self._for_worker or not self._open else None

    def _turn(self, awaited: Awaited) -> Turn:
        return Turn(awaited, self._newest)


def read_turn(events: Iterable[Any]) -> Turn:
    """How the newest turn stands, from events in the order newest first."""
    reader = TurnReader()
    for event in events:
        if (turn := reader.read(event)) is not None:
            return turn
    return reader.end()


def is_oldest_first(events: Sequence[Any]) -> bool:
    """Whether events that were asked for newest first came in the other order."""
    known = [getattr(event, "processed_at", None) for event in events]
    times = [at for at in known if isinstance(at, datetime)]
    return len(times) > 1 and times[0] < times[-1]
