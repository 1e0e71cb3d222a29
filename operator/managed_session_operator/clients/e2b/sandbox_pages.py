"""Reads E2B's list of sandboxes page by page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import e2b

from managed_session_operator.clients.e2b.open_listing import next_page
from managed_session_operator.domain.errors import ErrorKind, OperationError

Call = Callable[[str, float], AbstractAsyncContextManager[Any]]
"""Opens a call to E2B with fence, timeout and translation of errors. Yields the SDK's sandbox class."""

_LIMIT = 100
_ATTEMPTS = 3
_LONGEST_DELAY_SECONDS = 10.0
"""A failed page is requested again, because the pages before it would be lost otherwise."""


async def read_pages(
    call: Call, metadata: Mapping[str, str], timeout: float, *, running_only: bool
) -> AsyncIterator[Sequence[e2b.SandboxInfo]]:
    """Yield the pages. Each has a timeout and several attempts.

    A sandbox may be on two pages. If its state changes between two pages, it may be on none.

    Args:
        call: opens a call.
        metadata: metadata that the server filters by.
        timeout: timeout of one page in seconds.
        running_only: whether to leave out paused sandboxes.

    Raises:
        OperationError: a page could not be read.
    """
    async with call("list", timeout) as sandbox:
        pages = sandbox.list(
            query=e2b.SandboxQuery(
                metadata=dict(metadata), state=[e2b.SandboxState.RUNNING] if running_only else None
            ),
            limit=_LIMIT,
            request_timeout=timeout,
        )
    while pages.has_next:
        yield await _page(call, pages, timeout)


async def _page(call: Call, pages: e2b.AsyncSandboxPaginator, timeout: float) -> Sequence[e2b.SandboxInfo]:
    for number in range(1, _ATTEMPTS):
        try:
            async with call("list", timeout):
                return await next_page(pages)
        except OperationError as error:
            if error.kind not in (ErrorKind.TRANSIENT, ErrorKind.RATE_LIMITED):
                raise
            delay = max(error.retry_after or 0.0, 0.25 * 2**number)
        await asyncio.sleep(min(delay, _LONGEST_DELAY_SECONDS))
    async with call("list", timeout):
        return await next_page(pages)
