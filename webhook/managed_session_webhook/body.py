"""Reading a request's body within limits of size, time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.requests import ClientDisconnect, Request

MAX_BODY_BYTES = 1024 * 1024

_SMALL_BYTES = 16 * 1024
"""An event has less than one KiB; a body up to this size needs no place."""


class BodyTooLargeError(Exception):
    """The body is longer than is accepted."""


class BodyIncompleteError(Exception):
    """The sender went away or took too long."""


class BodyReader:
    """Reads bodies of requests that have proven nothing yet.

    Args:
        timeout_seconds: for one body, waiting for a place included.
        large_bodies: bodies above 16 KiB that are held in memory at the same time, at most.
    """

    def __init__(self, *, timeout_seconds: float, large_bodies: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._places = asyncio.Semaphore(large_bodies)

    @asynccontextmanager
    async def read(self, request: Request, *, keep: bool = True) -> AsyncIterator[bytes]:
        """The raw body, at most 1 MiB, for the time of the block; with `keep` false it is only measured.

        A declared length is believed when it is too much; a body without one is counted as it comes, so no
        more than the limit (and one network read) is ever held.

        Raises:
            BodyTooLargeError: longer than MAX_BODY_BYTES.
            BodyIncompleteError: not complete in time, or the connection ended.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > MAX_BODY_BYTES:
            raise BodyTooLargeError
        async with AsyncExitStack() as place:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    body = await self._read(request, place, keep=keep)
            except (TimeoutError, ClientDisconnect):
                raise BodyIncompleteError from None
            yield body

    async def _read(self, request: Request, place: AsyncExitStack, *, keep: bool) -> bytes:
        parts: list[bytes] = []
        size, has_place = 0, not keep
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise BodyTooLargeError
            if size > _SMALL_BYTES and not has_place:
                await place.enter_async_context(self._places)
                has_place = True
            if keep:
                parts.append(chunk)
        return b"".join(parts)
