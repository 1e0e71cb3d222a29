"""Finds the tool calls that a session waits for, from its events, newest first.

A call of a sub-agent's thread has a `session_thread_id`, and the thread's own event names the calls that it
waits for (`session.thread_status_idle`). The session itself may be running meanwhile. Source: the SDK's event
types (`anthropic.types.beta.sessions`).
"""

from collections.abc import AsyncIterable
from dataclasses import dataclass, field

NEWEST_EVENTS = 100
"""The most events to read: an open call is among the newest ones."""

_RESULTS = {"user.tool_result": "tool_use_id", "user.custom_tool_result": "custom_tool_use_id"}
_ENDS = ("session.status_terminated", "session.deleted")
_THREAD = "session.thread_status_"


def _kind(event: object) -> str:
    return str(getattr(event, "type", ""))


def _awaited(event: object) -> frozenset[str] | None:
    """Return the calls that an idle event names; None if the turn is over."""
    reason = getattr(event, "stop_reason", None)
    if getattr(reason, "type", None) != "requires_action":
        return None
    return frozenset(str(each) for each in getattr(reason, "event_ids", None) or ())


@dataclass(frozen=True)
class SessionActivity:
    """Whether a session is idle, and what it waits for.

    Attributes:
        idle: It is idle and waits for no result.
        waiting: The calls that it or one of its threads waits for.
    """

    idle: bool = False
    waiting: frozenset[str] = frozenset()


async def session_activity(newest_first: AsyncIterable[object]) -> SessionActivity:
    """Find out what the session is doing, from as few events as possible."""
    status: object = None
    threads: dict[str, frozenset[str]] = {}
    count = 0
    async for event in newest_first:
        count += 1
        kind = _kind(event)
        if kind.startswith(_THREAD):
            thread = str(getattr(event, "session_thread_id", ""))
            idle = kind == "session.thread_status_idle"
            threads.setdefault(thread, (_awaited(event) or frozenset()) if idle else frozenset())
        elif status is None and kind.startswith("session.status_"):
            status = event
        if status is not None and count >= NEWEST_EVENTS:
            break
    if _kind(status) != "session.status_idle":
        return SessionActivity(waiting=frozenset().union(*threads.values()))
    own = _awaited(status)
    if own is None:
        return SessionActivity(idle=True)
    waiting = own.union(*threads.values())
    return SessionActivity(idle=not waiting, waiting=waiting)


@dataclass
class _Call:
    """A call, and the later events that may have settled it."""

    identifier: str
    turn_over: bool = False
    ended_threads: set[object] = field(default_factory=set)
    interrupted: set[object] = field(default_factory=set)

    def read(self, event: object) -> bool | None:
        """Read the next older event; return whether the call is open, or None if that is not known yet."""
        kind = _kind(event)
        thread = getattr(event, "session_thread_id", None)
        if getattr(event, "id", None) == self.identifier:
            return self._is_open(thread)
        if kind in _ENDS or (kind in _RESULTS and getattr(event, _RESULTS[kind], None) == self.identifier):
            return False
        if kind == "user.interrupt":
            self.interrupted.add(thread)
        elif kind == "session.thread_status_terminated":
            self.ended_threads.add(thread)
        elif kind in ("session.status_idle", "session.thread_status_idle"):
            return self._read_idle(event, thread)
        return None

    def _read_idle(self, event: object, thread: object) -> bool | None:
        awaited = _awaited(event)
        if awaited is not None:
            settled = self.turn_over or self.interrupted or self.ended_threads
            # A later event may have settled the call; the event of the call itself shows its thread.
            return True if self.identifier in awaited and not settled else None
        if _kind(event) == "session.status_idle":
            self.turn_over = True
        else:
            self.ended_threads.add(thread)
        return None

    def _is_open(self, thread: object) -> bool:
        if thread is None:
            return not self.turn_over and None not in self.interrupted
        return thread not in self.ended_threads and not {None, thread} & self.interrupted


async def still_open(newest_first: AsyncIterable[object], identifier: str) -> bool:
    """Return whether no event since a call has settled it.

    A call that the events do not contain yet counts as open: it is known from the event stream.
    """
    call, count = _Call(identifier), 0
    async for event in newest_first:
        count += 1
        if (found := call.read(event)) is not None:
            return found
        if count >= NEWEST_EVENTS:
            break
    return True
