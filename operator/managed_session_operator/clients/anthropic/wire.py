"""Fences calls of Anthropic's SDK at the wire, and translates its exceptions."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import nan
from typing import Any

import anthropic
import httpx2
from anthropic import DefaultAsyncHttpxClient
from managed_session_api.conditions import Reason
from managed_session_api.times import as_utc

from managed_session_operator.clients.rotating_key import KeyAuth, RotatingKey
from managed_session_operator.domain.errors import ErrorKind, NotLeadingError, OperationError

_UNANSWERED = (408, 425)
"""Status codes below 500 of requests that a server or gateway did not process."""


def fenced_http_client(fence: Callable[[], None], key: RotatingKey) -> DefaultAsyncHttpxClient:
    """Create a client that sends `key`, and checks the fence again just before a request is written.

    Anthropic has no fence against a late leader, so this check is as late as possible, by means of httpx's
    `trace` extension. `anthropic_error` passes its NotLeadingError on.
    """

    async def trace(event: str, _: Any) -> None:
        if event.endswith(".send_request_headers.started"):
            fence()

    async def ask(request: httpx2.Request) -> None:
        request.extensions["trace"] = trace

    return DefaultAsyncHttpxClient(event_hooks={"request": [ask]}, auth=KeyAuth(key), verify=tls_context())


def tls_context() -> ssl.SSLContext:
    """Create the SDK's TLS context without the strict check of extensions that Python 3.13 adds.

    The check applies only if SSL_CERT_FILE names the authorities. Private ones often lack key identifiers.
    """
    context = httpx2.create_ssl_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


_MOST_RETRY_SECONDS = 3600.0
"""Upper limit of a Retry-After."""


def _retry_after(text: str) -> float | None:
    """Return the seconds in a response's Retry-After, which is a number or a date."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = _seconds_until(text)
    return min(seconds, _MOST_RETRY_SECONDS) if seconds > 0 else None


def _seconds_until(date: str) -> float:
    """Return the seconds until an HTTP date; NaN if the text is not a date."""
    try:
        return (as_utc(parsedate_to_datetime(date)) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return nan


def _detail(status: int, body: Any) -> str:
    detail = body.get("error") if isinstance(body, dict) else None
    text = detail.get("message") if isinstance(detail, dict) else None
    return f"HTTP {status}" + (f": {str(text)[:200]}" if text else "")


def _means_gone(operation: str, body: object) -> bool:
    """Whether a response 404 is Anthropic's own statement that something does not exist.

    A session's files are deleted because of it, so it must have the form of Anthropic's errors. A poll's 404
    has less weight, and its form is not documented.
    """
    if operation == "poll":
        return isinstance(body, dict) or not body
    return isinstance(body, dict) and isinstance(body.get("error"), dict)


def anthropic_error(
    operation: str, error: Exception, *, rejected: Reason = Reason.ENVIRONMENT_CREDENTIAL_REJECTED
) -> OperationError | NotLeadingError:
    """Translate an SDK exception of `operation`. `rejected` is the reason for a rejected key."""
    if isinstance(error.__cause__, NotLeadingError):
        return error.__cause__
    if not isinstance(error, anthropic.APIStatusError):
        return unanswered_error(operation, error)
    retry_after = error.response.headers.get("retry-after", "")
    return answered_error(operation, error.status_code, error.body, retry_after, rejected=rejected)


def unanswered_error(operation: str, error: Exception) -> OperationError:
    """Return the error of a call that Anthropic did not answer."""
    return OperationError(
        ErrorKind.TRANSIENT,
        Reason.ENVIRONMENT_UNREACHABLE,
        f"Anthropic could not be reached for {operation} ({type(error).__name__})",
        outcome_known=False,
    )


def answered_error(
    operation: str,
    status: int,
    body: object,
    retry_after: str,
    *,
    rejected: Reason = Reason.ENVIRONMENT_CREDENTIAL_REJECTED,
) -> OperationError:
    """Translate an answer that is no success.

    Args:
        operation: name of the call.
        status: HTTP status.
        body: the answer's JSON, or its text.
        retry_after: its header Retry-After.
        rejected: the reason for a rejected key.
    """
    message = f"Anthropic answered {operation} with {_detail(status, body)}"
    if status in (401, 403):
        kind, reason = ErrorKind.USER_ACTION, rejected
    elif status == 404 and _means_gone(operation, body):
        kind, reason = ErrorKind.NOT_FOUND, Reason.SESSION_ENDED
    elif status == 404:
        # Not Anthropic's own response, but that of a proxy or gateway: it says nothing about the session.
        kind, reason = ErrorKind.TRANSIENT, Reason.ENVIRONMENT_UNREACHABLE
    elif status == 429:
        kind, reason = ErrorKind.RATE_LIMITED, Reason.ENVIRONMENT_RATE_LIMITED
    elif status == 409:
        # A conflict with another call, which soon resolves.
        kind, reason = ErrorKind.TRANSIENT, Reason.ENVIRONMENT_REQUEST_REJECTED
    elif status in _UNANSWERED or status >= 500:
        kind, reason = ErrorKind.TRANSIENT, Reason.ENVIRONMENT_UNREACHABLE
    else:
        kind, reason = ErrorKind.USER_ACTION, Reason.ENVIRONMENT_REQUEST_REJECTED
    outcome_known = status < 500 and status not in _UNANSWERED
    return OperationError(
        kind, reason, message, _retry_after(retry_after), outcome_known=outcome_known, status=status
    )
