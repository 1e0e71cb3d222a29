"""Reads a small form of a request that is not authenticated yet."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

_SECONDS = 10.0


class FormError(Exception):
    """The form is too large, incomplete or malformed."""


async def read_form(request: Request, *, limit: int) -> dict[str, str]:
    """Return the fields of an `application/x-www-form-urlencoded` body of at most `limit` bytes.

    Raises:
        FormError: it is no such body.
    """
    if (
        request.headers.get("content-type", "").partition(";")[0].strip()
        != "application/x-www-form-urlencoded"
    ):
        raise FormError
    body = b""
    try:
        async with asyncio.timeout(_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise FormError
        return dict(parse_qsl(body.decode("ascii"), max_num_fields=10))
    except (TimeoutError, ClientDisconnect, ValueError):
        raise FormError from None
