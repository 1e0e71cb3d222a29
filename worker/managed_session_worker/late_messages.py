"""Serves messages that come after the worker decided to leave and before its stop took effect.

Anthropic queues no work for a session whose item is held, and the worker has closed its stream. So no worker
would ever serve such a message. Therefore the worker reads the events once more when its item is stopped. If
a turn is open and not queued again, the worker serves it to its end without a lease. Results are sent with
the session token, which Anthropic accepts as long as the session lives.

A message may also come while the operator stops the item of a session that has had none. The worker that the
operator then starts finds its item stopped, and serves the message in the same way.
"""

import asyncio
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from anthropic import AnthropicError, APIStatusError, AsyncAnthropic
from anthropic import Middleware as SDKMiddleware
from anthropic.types.beta.environments import BetaSelfHostedWork, BetaSelfHostedWorkHeartbeatResponse

from managed_session_worker.protocol import StartRequest
from managed_session_worker.suspend_detector import ClockReading
from managed_session_worker.worker_log import logger

CHECK_SECONDS = 5.0
"""How often to check whether another worker can take over. An offer waits for this and a running call."""
CALL_SECONDS = 10.0
"""Timeout of one attempt; the SDK's ten minutes are too long here."""
MAX_ATTEMPTS = 5
"""How often to try to read the events. If that fails, no message is assumed to have come."""
NEWEST_EVENTS = 100
"""Enough to find out whether the newest turn is open."""
NEVER = "1970-01-01T00:00:00Z"
"""A time without a heartbeat. A heartbeat that expects it changes nothing and shows the item's state."""
UNLEASED_SECONDS = 300
"""The lease that the SDK is shown while there is none. A longer suspension ends the worker."""

LEASE_CALL = re.compile(r"/work/[^/]+/(heartbeat|stop)$")
_STARTING = frozenset(
    {"user.message", "user.define_outcome", "session.status_running", "session.status_rescheduled"}
)
_ENDING = frozenset({"session.status_terminated", "session.deleted", "user.interrupt"})


class Holder(Enum):
    """Who can serve the session now, apart from this worker."""

    NOBODY = auto()
    """The item is stopped (or gone) and not queued."""
    OTHERS = auto()
    """The item is queued, or another worker holds it."""
    REFUSED = auto()
    """The session token is no longer accepted."""


class LateMessages:
    """Watches a session whose item is stopped.

    Args:
        client: A client with the session's credential, without middleware.
        request: The claim that was served.
    """

    def __init__(self, client: AsyncAnthropic, request: StartRequest) -> None:
        self._client = client.with_options(timeout=CALL_SECONDS, max_retries=1)
        self._request = request

    async def wait_for_this_worker(self) -> bool:
        """Return whether the session needs a worker and will get no other one."""
        return await self._is_open() and await self.holder() is Holder.NOBODY

    async def until_taken(self) -> Holder:
        """Wait until this worker has to leave, and return why."""
        holder = Holder.NOBODY
        while holder is Holder.NOBODY:
            await asyncio.sleep(CHECK_SECONDS)
            holder = await self.holder()
        return holder

    async def holder(self) -> Holder:
        """Find out the item's state by a heartbeat that can't succeed.

        The server compares the expected heartbeat unless the item is stopping or stopped (the SDK's
        `resources/beta/environments/work.py`), so it answers 412 if the item is queued or held. After any
        other answer this worker keeps the session: the operator starts no second worker meanwhile.
        """
        try:
            await self._client.beta.environments.work.heartbeat(
                self._request.work_id,
                environment_id=self._request.environment_id,
                expected_last_heartbeat=NEVER,
            )
        except APIStatusError as error:
            if error.status_code == 412:
                return Holder.OTHERS
            if error.status_code in (401, 403):
                return Holder.REFUSED
            logger.info("could not find out the state of the work item: answered %s", error.status_code)
        except AnthropicError as error:
            logger.info("could not find out the state of the work item: %s", type(error).__name__)
        return Holder.NOBODY

    async def _is_open(self) -> bool:
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                await asyncio.sleep(attempt)
            try:
                page = await self._client.beta.sessions.events.list(
                    self._request.session_id, limit=NEWEST_EVENTS, order="desc"
                )
            except APIStatusError as error:
                if error.status_code in (401, 403, 404):
                    return False
                logger.warning("could not read the newest events: answered %s", error.status_code)
            except AnthropicError as error:
                logger.warning("could not read the newest events: %s", type(error).__name__)
            else:
                return turn_is_open(page.data)
        return False


class LocalLeaseAnswers(SDKMiddleware):
    """Answers heartbeats and stops of a worker whose item is stopped, without sending them.

    Args:
        on_heartbeat: Called with the time of each heartbeat and the seconds that a suspension may last.
    """

    def __init__(self, on_heartbeat: Callable[[ClockReading, float], None]) -> None:
        self._on_heartbeat = on_heartbeat

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        """Answer a heartbeat or a stop; pass any other attempt on."""
        found = LEASE_CALL.search(str(request.url).split("?", 1)[0])
        if found is None:
            return await call_next(request)
        if found[1] == "stop":
            return BetaSelfHostedWork.model_construct(state="stopped")
        self._on_heartbeat(ClockReading.take(), UNLEASED_SECONDS)
        return BetaSelfHostedWorkHeartbeatResponse.model_construct(
            type="work_heartbeat",
            last_heartbeat="",
            lease_extended=True,
            state="active",
            ttl_seconds=UNLEASED_SECONDS,
        )


def turn_is_open(events: list[Any]) -> bool:
    """Return whether the newest turn is running or about to begin, from events in order, newest first."""
    for event in events:
        kind = str(getattr(event, "type", ""))
        if kind == "session.status_idle":
            return getattr(getattr(event, "stop_reason", None), "type", None) == "requires_action"
        if kind in _STARTING:
            return True
        if kind in _ENDING and getattr(event, "session_thread_id", None) is None:
            return False
    return False
