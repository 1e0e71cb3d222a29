"""Keeps the lease when the answer to a heartbeat was lost after the heartbeat had taken effect.

Each heartbeat names the previous one; the server answers 412 if it has stored another one. So a repeated
heartbeat looks as if somebody else had taken the lease, and the SDK gives the work up.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from anthropic import Middleware as SDKMiddleware

from managed_session_worker.suspend_detector import ClockReading
from managed_session_worker.worker_log import logger

_HEARTBEAT = re.compile(r"/work/[^/]+/heartbeat$")
MARGIN_SECONDS = 2.0
"""The `Date` of an answer has whole seconds, and may be set a little before or after the effect."""


class HeartbeatRetry(SDKMiddleware):
    """Sends the heartbeat once more, naming the stored one, if that can only be this worker's own.

    The stored heartbeat may be this worker's own if the item is active and a call since the last answered
    heartbeat got no answer. It is this worker's own if its time lies within the time of those calls, by the
    server's clock: the operator has acknowledged the item and starts no second worker while this one lives.
    Without the server's clock it is certain as long as the lease that was answered last has not lapsed,
    because nobody else can have taken it.
    """

    def __init__(self) -> None:
        self._unanswered_since: ClockReading | None = None
        self._held_from: ClockReading | None = None
        self._held_seconds = 0.0

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        """Pass one attempt on; repeat a heartbeat that conflicts with this worker's own."""
        if not _HEARTBEAT.search(str(request.url).split("?", 1)[0]):
            return await call_next(request)
        response = await self._beat(request, call_next)
        if response.status_code == 412 and (stored := await self._own(response)) is not None:
            logger.info("an earlier heartbeat took effect, only its answer was lost; the lease is still held")
            parameters = {**request.query_params, "expected_last_heartbeat": stored}
            response = await self._beat(request.copy(params=parameters), call_next)
        return response

    async def _beat(self, request: Any, call_next: Any) -> Any:
        sent = ClockReading.take()
        try:
            response = await call_next(request)
        except BaseException:
            self._unanswered_since = self._unanswered_since or sent
            raise
        status: int = response.status_code
        if status >= 500 or status == 408:
            self._unanswered_since = self._unanswered_since or sent
        elif status == 200:
            seconds = _fields(await _document(response)).get("ttl_seconds")
            self._unanswered_since, self._held_from = None, sent
            self._held_seconds = float(seconds) if isinstance(seconds, int | float) else 0.0
        return response

    async def _own(self, response: Any) -> str | None:
        """Return the stored heartbeat if it is one of our unanswered calls."""
        if self._unanswered_since is None:
            return None
        node: object = await _document(response)
        for key in ("error", "details", "current_state"):
            node = _fields(node).get(key)
        state = _fields(node)
        stored = state.get("last_heartbeat")
        if state.get("state") != "active" or not isinstance(stored, str) or not stored:
            return None
        now = ClockReading.take()
        within = self._within_our_calls(stored, response.headers.get("date"), now)
        if within is None and self._held_from is not None:
            within = self._held_from.seconds_until(now) < self._held_seconds
        return stored if within else None

    def _within_our_calls(self, stored: str, date: str | None, now: ClockReading) -> bool | None:
        """Return whether a time lies within our unanswered calls; None without the server's own time."""
        if self._unanswered_since is None or date is None:
            return None
        try:
            server_time, beat = parsedate_to_datetime(date), datetime.fromisoformat(stored)
        except ValueError:
            return None
        if beat.tzinfo is None:
            beat = beat.replace(tzinfo=UTC)
        margin = timedelta(seconds=MARGIN_SECONDS)
        began = server_time - timedelta(seconds=self._unanswered_since.seconds_until(now))
        return began - margin <= beat <= server_time + margin


def _fields(node: object) -> Mapping[str, object]:
    return node if isinstance(node, Mapping) else {}


async def _document(response: Any) -> object:
    try:
        return await response.json()
    except ValueError:
        return None
