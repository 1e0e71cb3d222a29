"""Retries the request for the session's history, which the SDK sends once its event stream is open."""

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


class RetryingEventHistory(SDKMiddleware):
    """Retries the request for the history until it succeeds.

    The SDK alone tries three times within two seconds and then goes on with the stream. The calls that the
    session waits for would then run only once that stream breaks, which may never happen. Events that the
    stream brings meanwhile are kept. Whatever ends the worker also ends the retries.
    """

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        """Pass one attempt on; repeat a request for the history until it succeeds."""
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
            logger.warning("could not read the session's events: %s; retrying in %.1f s", answer, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
