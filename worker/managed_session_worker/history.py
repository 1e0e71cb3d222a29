"""Patience with the session's history, which the SDK's worker reads when it has opened the event stream."""

import asyncio
import re
from typing import Any

from anthropic import APIConnectionError
from anthropic import Middleware as SDKMiddleware

from managed_session_worker.worker_log import logger

_EVENTS = re.compile(r"/v1/sessions/[^/]+/events$")
_TRANSIENT = frozenset({408, 409, 429})
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0


class PatientHistory(SDKMiddleware):
    """Reads the history until it is there.

    The SDK tries three times within two seconds and then goes on with the stream alone: the calls that the
    session waits for are run only when that stream breaks, which may be never. What the stream brings is kept
    meanwhile, and whatever ends the worker ends this too.
    """

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        """Pass one attempt on; for the history, as many as it takes."""
        path = str(request.url).split("?", 1)[0]
        if request.method.lower() != "get" or not _EVENTS.search(path):
            return await call_next(request)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                response = await call_next(request)
            except APIConnectionError as error:
                answer = type(error).__name__
            else:
                status: int = response.status_code
                if status < 500 and status not in _TRANSIENT:
                    return response
                answer = str(status)
            logger.warning("the session's events could not be read: %s; again in %.1f s", answer, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
