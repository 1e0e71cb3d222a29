"""Stops the work of a session that has had no message: the SDK's idle timer never starts for it."""

import asyncio
from collections.abc import Callable

from anthropic import AnthropicError, AsyncAnthropic

from managed_session_worker.outcome_tracker import OutcomeTracker
from managed_session_worker.protocol import ExitReason, StartRequest
from managed_session_worker.worker_log import logger

RETRY_SECONDS = 2.0
FIRST_EVENTS = 100
"""Enough to find out whether the session has had a message."""


class AttachDeadline:
    """Waits for `attachTimeoutSeconds`, then asks whether the session has had a message."""

    def __init__(self, client: AsyncAnthropic, request: StartRequest, tracker: OutcomeTracker) -> None:
        self._client = client
        self._request = request
        self._tracker = tracker

    async def watch(self, stop: Callable[[ExitReason, str], None]) -> None:
        """Call `stop` if the deadline passes without a message."""
        seconds = self._request.attach_timeout_seconds
        await asyncio.sleep(seconds)
        has_message = await self._has_message()
        while has_message is None:
            await asyncio.sleep(RETRY_SECONDS)
            has_message = await self._has_message()
        if not has_message:
            stop(ExitReason.NO_MESSAGE, f"no user message within {seconds:g} s")

    async def _has_message(self) -> bool | None:
        """Return whether the session has had a message; None if that could not be found out."""
        if self._tracker.tool_running:
            return True
        try:
            page = await self._client.beta.sessions.events.list(self._request.session_id, limit=FIRST_EVENTS)
        except AnthropicError as error:
            logger.warning("could not find out whether the session has a message: %s", type(error).__name__)
            return None
        types = [str(getattr(event, "type", "")) for event in page.data]
        if any(kind.startswith(("user.", "agent.")) or kind == "session.status_running" for kind in types):
            return True
        # With more pages, a lot has happened. A message that is overlooked would lose its work.
        return page.has_next_page()
