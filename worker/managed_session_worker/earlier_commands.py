"""Knows from a session's events which threads have had a shell before, perhaps in another sandbox."""

from typing import Any

from managed_session_worker.unread_events import UnreadEvents


class EarlierCommands:
    """Finds the threads whose calls of `bash` have had results."""

    def __init__(self) -> None:
        self._unread = UnreadEvents()
        self._open: dict[str, str] = {}
        """The threads of calls without a result, by tool use ID."""
        self._threads: set[str] = set()

    def read(self, events: list[Any]) -> None:
        """Read the next events, in order; skip those that were read before."""
        for identifier, kind, event in self._unread.among(events):
            if kind == "agent.tool_use" and event.get("name") == "bash":
                self._open[identifier] = str(event.get("session_thread_id") or "")
            elif kind == "user.tool_result":
                thread = self._open.pop(str(event.get("tool_use_id")), None)
                if thread is not None:
                    self._threads.add(thread)

    def had_results(self, thread: str) -> bool:
        """Return whether a call of this thread has had a result; the primary thread is the empty text."""
        return thread in self._threads
