"""Finds out whether the session waits for its user: for a confirmation, or the result of a custom tool.

This module uses the events that the SDK reads anyway (`event_reader`).
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from managed_session_worker.unread_events import UnreadEvents, awaits_action

SETTLED_SECONDS = 2.0
"""A wait is reported only after this time: a program may answer a call at once."""
CONFIRMATION = "user.tool_confirmation"
_ENDED = ("session.status_running", "session.status_terminated", "session.deleted", "user.interrupt")

Call = dict[str, str]


class UserWait:
    """Finds, in a session's events, the calls that its user has to answer."""

    def __init__(self, on_change: Callable[[list[Call]], None]) -> None:
        """Take the callback.

        Args:
            on_change: Gets the calls (`id`, `tool`, `answer`); an empty list when the wait is over.
        """
        self._on_change = on_change
        self._unread = UnreadEvents()
        self._asked: dict[str, Call] = {}
        self._open: list[str] = []
        self._reported: list[Call] = []

    @property
    def waits(self) -> bool:
        """Whether nothing but an answer of the session's user continues the turn, as far as is known."""
        return bool(self._reported)

    def read(self, events: list[Any]) -> None:
        """Read the next events, in order; skip those that were read before."""
        for identifier, kind, event in self._unread.among(events):
            self._take(identifier, kind, event)
        waits = bool(self._open) and all(each in self._asked for each in self._open)
        calls = [self._asked[each] for each in self._open] if waits else []
        if calls != self._reported:
            self._reported = calls
            self._on_change(calls)

    def _take(self, identifier: str, kind: str, event: Mapping[str, Any]) -> None:
        tool = str(event.get("name"))
        if kind == "agent.tool_use":
            # As in the SDK: what is neither allowed nor denied waits for the user's confirmation.
            if event.get("evaluated_permission") not in (None, "allow", "deny"):
                self._asked[identifier] = {"id": identifier, "tool": tool, "answer": CONFIRMATION}
        elif kind == "agent.custom_tool_use":
            self._asked[identifier] = {"id": identifier, "tool": tool, "answer": "user.custom_tool_result"}
        elif kind in ("user.tool_confirmation", "user.tool_result", "user.custom_tool_result"):
            answered = str(event.get("tool_use_id") or event.get("custom_tool_use_id"))
            self._asked.pop(answered, None)
            if kind != "user.tool_confirmation" or event.get("result") != "allow":
                self._open = [each for each in self._open if each != answered]
        elif kind == "session.status_idle":
            named = event["stop_reason"].get("event_ids") if awaits_action(event) else None
            self._open = [str(each) for each in named or ()]
        elif kind in _ENDED:
            self._open = []


class UserWaitReports:
    """Reports a wait once it has lasted for a moment, and its end at once."""

    def __init__(self, report: Callable[[list[Call]], None]) -> None:
        """Take the callback.

        Args:
            report: Gets the calls; an empty list when the wait is over.
        """
        self._report = report
        self._reported: list[Call] = []
        self._settling: asyncio.TimerHandle | None = None

    def changed(self, calls: list[Call]) -> None:
        """Take the calls that the session's user has to answer now."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if calls:
            loop = asyncio.get_running_loop()
            self._settling = loop.call_later(SETTLED_SECONDS, self._report_change, calls)
        else:
            self._report_change([])

    def _report_change(self, calls: list[Call]) -> None:
        if calls != self._reported:
            self._reported = calls
            self._report(calls)
