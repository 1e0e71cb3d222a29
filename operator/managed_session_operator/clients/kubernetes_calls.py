"""One call to the API server: fence, timeout and the translation of what it raises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
from kubernetes.aio.client.exceptions import ApiException
from managed_session_api.conditions import Reason

from managed_session_operator.failures import ConflictError, Failure, Kind, ResourceGoneError


@asynccontextmanager
async def kubernetes_call(
    operation: str, *, timeout: float, fence: Callable[[], None] | None
) -> AsyncIterator[None]:
    """Run one call to the API server.

    Args:
        operation: what is done, for messages.
        timeout: seconds.
        fence: raises NotLeadingError when effects must not be sent; None for a read.

    Raises:
        ResourceGoneError: HTTP 404.
        ConflictError: HTTP 409.
        Failure: anything else. Its text has the status alone, because an answer may quote the object.
    """
    if fence is not None:
        fence()
    try:
        async with asyncio.timeout(timeout):
            yield
    except ApiException as error:
        if error.status == 404:
            raise ResourceGoneError(operation) from None
        if error.status == 409:
            raise ConflictError(operation) from None
        raise Failure(
            Kind.PERSON if error.status in (400, 403, 422) else Kind.RETRY,
            Reason.KUBERNETES_REFUSED,
            f"the API server answered {operation} with HTTP {error.status}",
            definite=(error.status or 0) < 500,
            status=error.status,
        ) from None
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise Failure(
            Kind.RETRY,
            Reason.KUBERNETES_REFUSED,
            f"the API server did not answer {operation} ({type(error).__name__})",
            definite=False,
        ) from None
