"""Reads the events that the SDK's worker receives: the pages of the history, and a copy of the stream."""

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import httpx2
from anthropic import Middleware as SDKMiddleware

from managed_session_worker.interrupted_calls import InterruptedCalls, with_results
from managed_session_worker.worker_log import logger

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""A longer event is skipped."""
_EVENTS = re.compile(r"/v1/sessions/[^/]+/events$")
_STREAM = re.compile(r"/v1/sessions/[^/]+/events/stream$")


class Listener(Protocol):
    """Receives a session's events in order, some of them more than once."""

    def read(self, events: list[Any], /) -> None:
        """Read the next events."""


class EventReader(SDKMiddleware):
    """Passes events to listeners, and adds results of interrupted calls to the history that the SDK reads.

    Args:
        interrupted: Finds the interrupted calls.
        others: Further listeners.
        on_more: Called after a page of the history that another page follows.
    """

    def __init__(
        self, interrupted: InterruptedCalls, *others: Listener, on_more: Callable[[], None] = lambda: None
    ) -> None:
        self._on_more = on_more
        self._interrupted = interrupted
        self._listeners: tuple[Listener, ...] = (interrupted, *others)

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        """Pass one attempt on, and read the events in its answer."""
        path, _, query = str(request.url).partition("?")
        response = await call_next(request)
        if response.status_code != 200 or request.method.lower() != "get":
            return response
        if _EVENTS.search(path) and "order=desc" not in query:
            document = await response.json()
            events = document.get("data") if isinstance(document, dict) else None
            if isinstance(events, list):
                for listener in self._listeners:
                    listener.read(events)
                if document.get("next_page"):
                    self._on_more()
                response.http_response = with_results(response.http_response, document, self._interrupted)
        elif _STREAM.search(path):
            self._listen(response.http_response)
        return response

    def _listen(self, response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            logger.warning("the event stream is encoded: cannot report calls that wait for the user")
        elif isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _CopiedStream(response.stream, _Lines(self._listeners))


class _Lines:
    """Splits bytes into server-sent events, of which Anthropic's have one line of data each."""

    def __init__(self, listeners: tuple[Listener, ...]) -> None:
        self._listeners = listeners
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            self._rest = b""
        for line in lines:
            if line.startswith(b"data:"):
                self._show(line[5:])

    def _show(self, data: bytes) -> None:
        try:
            event = json.loads(data)
            for listener in self._listeners:
                listener.read([event])
        except (ValueError, AttributeError, TypeError, RecursionError):
            logger.warning("could not read an event of the stream")


class _CopiedStream(httpx2.AsyncByteStream):
    """Passes a stream on unchanged, and feeds a copy to a parser."""

    def __init__(self, stream: httpx2.AsyncByteStream, lines: _Lines) -> None:
        self._stream = stream
        self._lines = lines

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._lines.feed(chunk)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
