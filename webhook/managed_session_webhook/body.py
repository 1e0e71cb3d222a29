"""Reading a request's body within limits."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

MAX_BODY_BYTES = 1024 * 1024


class BodyTooLargeError(Exception):
    """The body is longer than is accepted."""


class BodyIncompleteError(Exception):
    """The sender went away or took too long."""


async def read_body(
    request: Request, *, limit: int = MAX_BODY_BYTES, timeout_seconds: float, keep: bool = True
) -> bytes:
    """The raw body, at most `limit` bytes; with `keep` false it is only measured and b"" is returned.

    A declared length is believed when it is too much; a body without one is counted as it comes, so no more
    than the limit (and one network read) is ever held.

    Raises:
        BodyTooLargeError: longer than `limit`.
        BodyIncompleteError: not complete after `timeout_seconds`, or the connection ended.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise BodyTooLargeError
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise BodyTooLargeError
                if keep:
                    parts.append(chunk)
    except (TimeoutError, ClientDisconnect):
        raise BodyIncompleteError from None
    return b"".join(parts)
