"""Finds the tool calls that the threads of sub-agents wait for, from a session's events, newest first.

The session's events report each thread's status (`session.thread_status_*`). A thread may wait while the
session itself is running. Source: the SDK's event types (`anthropic.types.beta.sessions`).
"""

from __future__ import annotations

from typing import Any

_STATUS = "session.thread_status_"
_CALLS = ("agent.tool_use", "agent.custom_tool_use")


class ThreadCalls:
    """Reads events, newest first, and keeps the newest status of each thread."""

    def __init__(self) -> None:
        self._waiting: dict[str, frozenset[str]] = {}
        self._calls: list[Any] = []

    @property
    def waiting(self) -> frozenset[str]:
        """The calls that threads wait for."""
        return frozenset().union(*self._waiting.values())

    @property
    def calls(self) -> list[Any]:
        """The calls among the events read so far, newest first."""
        return self._calls

    def read(self, kind: str, event: Any) -> None:
        """Read one event."""
        thread = getattr(event, "session_thread_id", None)
        if kind in _CALLS:
            self._calls.append(event)
        elif kind.startswith(_STATUS) or (kind == "user.interrupt" and thread):
            reason = getattr(event, "stop_reason", None)
            waits = kind.endswith("idle") and getattr(reason, "type", None) == "requires_action"
            identifiers = (getattr(reason, "event_ids", None) or ()) if waits else ()
            self._waiting.setdefault(str(thread), frozenset(str(each) for each in identifiers))
