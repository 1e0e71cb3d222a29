"""Wraps calls to the API server: fence, timeout, and translation of errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp
from kubernetes.aio.client.exceptions import ApiException
from managed_session_api.conditions import Reason
from managed_session_runtime.kubernetes_errors import (
    KubernetesMisconfiguredError,
    KubernetesUnavailableError,
)

from managed_session_operator.domain.errors import ConflictError, ErrorKind, OperationError, ResourceGoneError


@asynccontextmanager
async def kubernetes_call(
    operation: str, *, timeout: float, fence: Callable[[], None] | None
) -> AsyncIterator[None]:
    """Run one call to the API server.

    Args:
        operation: name of the call, for messages.
        timeout: timeout in seconds.
        fence: raises NotLeadingError if effects must not be sent; None for a read.

    Raises:
        ResourceGoneError: HTTP 404.
        ConflictError: HTTP 409.
        OperationError: any other error. Its text has only the status: a response may quote the object.
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
        raise _rejected(operation, error.status or 0) from None
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise _unanswered(operation, error) from None


@contextmanager
def translated_errors(operation: str) -> Iterator[None]:
    """Translate errors of the shared client, except conflicts and missing resources.

    Raises:
        OperationError: as in `kubernetes_call`.
    """
    try:
        yield
    except (KubernetesUnavailableError, KubernetesMisconfiguredError) as error:
        if error.status is not None:
            raise _rejected(operation, error.status) from None
        raise _unanswered(operation, error.__cause__ or error) from None


def _rejected(operation: str, status: int) -> OperationError:
    return OperationError(
        ErrorKind.USER_ACTION if status in (400, 403, 422) else ErrorKind.TRANSIENT,
        Reason.KUBERNETES_CALL_FAILED,
        f"The API server answered {operation} with HTTP {status}",
        outcome_known=status < 500,
        status=status,
    )


def _unanswered(operation: str, error: BaseException) -> OperationError:
    return OperationError(
        ErrorKind.TRANSIENT,
        Reason.KUBERNETES_CALL_FAILED,
        f"The API server did not answer {operation} ({type(error).__name__})",
        outcome_known=False,
    )
