"""Finds the tool calls that the session's user has interrupted, or whose thread or session has ended.

At each start the SDK's worker runs every call that has no result in the history, even one that was
interrupted turns ago, and the platform then refuses the result. So the history that the SDK reads gets a
result for each such call. `side_by_side` ends those that run, and does not run those that wait to.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from managed_session_worker.unread_events import UnreadEvents

_RESULT_OF = {"agent.tool_use": "user.tool_result", "agent.custom_tool_use": "user.custom_tool_result"}
_KEYS = {"user.tool_result": "tool_use_id", "user.custom_tool_result": "custom_tool_use_id"}
_IDLE = ("session.status_idle", "session.thread_status_idle")
_THREAD_STATUS = "session.thread_status_"
_SESSION_ENDS = ("session.status_terminated", "session.deleted")


class InterruptedCalls:
    """Finds, in a session's events, the calls that ended so before they had a result.

    Args:
        on_read: Called after events were read.
    """

    def __init__(self, on_read: Callable[[], None] = lambda: None) -> None:
        self._on_read = on_read
        self._unread = UnreadEvents()
        self._first_thread: object = None
        """The first thread whose status the log tells. It is the primary one, unless calls name it."""
        self._named: set[object] = set()
        self._open: dict[str, tuple[str, object]] = {}
        """Calls without a result: the type of their result, and their thread."""
        self._interrupted: set[str] = set()

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._interrupted

    def read(self, events: list[Any]) -> None:
        """Read the next events, in order; skip those that were read before."""
        for identifier, kind, event in self._unread.among(events):
            self._take(identifier, kind, event)
        self._on_read()

    def _take(self, identifier: str, kind: str, event: Mapping[str, Any]) -> None:
        thread = event.get("session_thread_id")
        if kind.startswith(_THREAD_STATUS) and self._first_thread is None:
            self._first_thread = thread
        if kind in _RESULT_OF:
            self._named.add(thread)
            self._open[identifier] = (_RESULT_OF[kind], thread)
        elif kind in _KEYS:
            answered = str(event.get(_KEYS[kind]))
            self._open.pop(answered, None)
            self._interrupted.discard(answered)
        elif kind == "user.interrupt" and thread is not None:
            self._end_calls({thread, None} if self._is_primary(thread) else {thread})
        elif kind == "user.interrupt" or kind in _SESSION_ENDS:
            self._end_calls(None)
        elif kind == "session.thread_status_terminated":
            self._end_calls({thread})
        elif kind in _IDLE:
            reason = event.get("stop_reason")
            named = reason.get("event_ids") if isinstance(reason, Mapping) else None
            # The session still waits for these.
            self._interrupted.difference_update(map(str, named or ()))

    def _end_calls(self, threads: set[object] | None) -> None:
        """Take note that the open calls of these threads have ended; None: of all threads."""
        self._interrupted.update(
            call for call, (_, owner) in self._open.items() if threads is None or owner in threads
        )

    def _is_primary(self, thread: object) -> bool:
        return thread == self._first_thread and thread not in self._named

    def results(self) -> list[dict[str, Any]]:
        """Return a result event for each interrupted call."""
        return [
            {"id": f"interrupted_{call}", "type": kind, _KEYS[kind]: call, "content": []}
            for call, (kind, _) in self._open.items()
            if call in self._interrupted
        ]


def with_results(
    response: httpx2.Response, page: Mapping[str, Any], calls: InterruptedCalls
) -> httpx2.Response:
    """Add results of the interrupted calls to the last page of a history; return other pages unchanged."""
    results = calls.results()
    if page.get("next_page") or not results:
        return response
    headers = {
        name: value
        for name, value in response.headers.items()
        if name.lower() not in ("content-length", "content-encoding", "transfer-encoding")
    }
    # Added at the beginning: the SDK reads the session's state from the end of the history.
    content = json.dumps({**page, "data": [*results, *page["data"]]}).encode()
    return httpx2.Response(
        response.status_code,
        headers=headers,
        content=content,
        request=response.request,
        extensions=response.extensions,
    )
