"""Ends a worker whose session waits for a tool result that the API has refused for good."""

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import NoReturn

from anthropic import AnthropicError

from managed_session_worker.open_calls import session_activity
from managed_session_worker.outcome_tracker import OutcomeTracker
from managed_session_worker.protocol import ExitReason
from managed_session_worker.worker_log import logger

CHECK_SECONDS = 2.0


class RefusedResults:
    """Watches a session with refused results, since the SDK neither tries again nor leaves.

    If the session waits for a refused result, the process ends hard: the lease lapses and the work is queued
    again, whereas a stop would leave the session stuck in mid-turn. If it no longer waits for the result (its
    user has interrupted), there is no reason to leave, but the SDK's idle timer may not run. So this class
    also decides when the session has been idle for long enough.
    """

    def __init__(
        self,
        newest_events: Callable[[], AsyncIterable[object]],
        tracker: OutcomeTracker,
        max_idle_seconds: float,
        *,
        stop: Callable[[ExitReason, str], None],
        end: Callable[[ExitReason, str], NoReturn],
    ) -> None:
        """Take what is needed to watch the session.

        Args:
            newest_events: Lists the session's events, newest first.
            tracker: Knows whether a tool call is running.
            max_idle_seconds: How long the session may be idle.
            stop: Ends the run and stops the work item.
            end: Ends the process at once.
        """
        self._newest_events = newest_events
        self._tracker = tracker
        self._max_idle_seconds = max_idle_seconds
        self._stop = stop
        self._end = end
        self._messages: dict[str, str] = {}

    def add(self, identifier: str, message: str) -> bool:
        """Add a refused result; return whether it is the first one, so that `watch` has to be started."""
        self._messages[identifier] = message
        return len(self._messages) == 1

    async def watch(self) -> None:
        """Check the session until this worker has to leave."""
        loop = asyncio.get_running_loop()
        idle_since: float | None = None
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                session = await session_activity(self._newest_events())
            except AnthropicError as error:
                logger.warning("could not check the session after a refused result: %s", type(error).__name__)
                continue
            for identifier in session.waiting & self._messages.keys():
                self._end(ExitReason.RESULT_REFUSED, self._messages[identifier])
            if not session.idle:
                idle_since = None
            elif idle_since is None:
                idle_since = loop.time()
            elif loop.time() - idle_since > self._max_idle_seconds and not self._tracker.tool_running:
                self._stop(
                    ExitReason.IDLE, "the session was idle, after a result that it did not wait for any more"
                )
                return
