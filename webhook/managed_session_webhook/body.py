"""Reads a request's body within limits of size, time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.requests import ClientDisconnect, Request

MAX_BODY_BYTES = 1024 * 1024

_SMALL_BYTES = 16 * 1024
"""Bodies up to this size need no slot; an event is smaller than 1 KiB."""


class BodyTooLargeError(Exception):
    """The body is larger than the limit."""


class BodyIncompleteError(Exception):
    """The sender disconnected or took too long."""


class BodyReader:
    """Reads bodies of requests that are not authenticated yet.

    Args:
        timeout_seconds: timeout for one body, including the wait for a slot.
        large_bodies: maximum number of bodies above 16 KiB that are in memory at once.
    """

    def __init__(self, *, timeout_seconds: float, large_bodies: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._slots = asyncio.Semaphore(large_bodies)

    @asynccontextmanager
    async def read(self, request: Request, *, keep: bool = True) -> AsyncIterator[bytes]:
        """Read the body, at most 1 MiB, for the duration of the block. Without `keep`, only measure it.

        A declared length above the limit is rejected at once. All bodies are counted while they arrive, so
        that at most the limit plus one network read is ever in memory.

        Raises:
            BodyTooLargeError: the body is larger than MAX_BODY_BYTES.
            BodyIncompleteError: the body did not arrive in time, or the connection ended.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > MAX_BODY_BYTES:
            raise BodyTooLargeError
        async with AsyncExitStack() as slot:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    body = await self._read(request, slot, keep=keep)
            except (TimeoutError, ClientDisconnect):
                raise BodyIncompleteError from None
            yield body

    async def _read(self, request: Request, slot: AsyncExitStack, *, keep: bool) -> bytes:
        parts: list[bytes] = []
        size, has_slot = 0, not keep
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise BodyTooLargeError
            if size > _SMALL_BYTES and not has_slot:
                await slot.enter_async_context(self._slots)
                has_slot = True
            if keep:
                parts.append(chunk)
        return b"".join(parts)
