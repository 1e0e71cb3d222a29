"""Calls through Anthropic's SDK: fenced at the wire, and what its exceptions mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
from anthropic import DefaultAsyncHttpxClient
from managed_session_api.conditions import Reason

from managed_session_operator.clients.rotating_key import KeyAuth, RotatingKey
from managed_session_operator.failures import Failure, Kind, NotLeadingError


def fenced_http_client(fence: Callable[[], None], key: RotatingKey) -> DefaultAsyncHttpxClient:
    """A client that puts `key` in, and asks again whether we lead when a request is about to be written.

    What Anthropic does for a late leader has no fence of its own at the other end, so this one is as late as
    can be (the `trace` extension of httpx tells when). `anthropic_failure` hands its NotLeadingError on.
    """

    async def trace(event: str, _: Any) -> None:
        if event.endswith(".send_request_headers.started"):
            fence()

    async def ask(request: httpx2.Request) -> None:
        request.extensions["trace"] = trace

    return DefaultAsyncHttpxClient(event_hooks={"request": [ask]}, auth=KeyAuth(key))


def _retry_after(error: anthropic.APIStatusError) -> float | None:
    try:
        return float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None


def _said(error: anthropic.APIStatusError) -> str:
    body: Any = error.body
    detail = body.get("error") if isinstance(body, dict) else None
    text = detail.get("message") if isinstance(detail, dict) else None
    return f"HTTP {error.status_code}" + (f": {str(text)[:200]}" if text else "")


def _says_gone(operation: str, body: object) -> bool:
    """Whether an answer 404 is Anthropic's word that something does not exist.

    A session's files are deleted on it, so it must have the form of Anthropic's errors. A poll's means less,
    and what it says is documented nowhere.
    """
    if operation == "poll":
        return isinstance(body, dict) or not body
    return isinstance(body, dict) and isinstance(body.get("error"), dict)


def anthropic_failure(
    operation: str, error: Exception, *, rejected: Reason = Reason.ENVIRONMENT_CREDENTIAL_REJECTED
) -> Failure | NotLeadingError:
    """The failure that an SDK exception of `operation` means; `rejected` is the reason for a refused key."""
    if isinstance(error.__cause__, NotLeadingError):
        return error.__cause__
    if not isinstance(error, anthropic.APIStatusError):
        return Failure(
            Kind.RETRY,
            Reason.ENVIRONMENT_UNREACHABLE,
            f"Anthropic could not be reached for {operation} ({type(error).__name__})",
            definite=False,
        )
    status = error.status_code
    said = f"Anthropic answered {operation} with {_said(error)}"
    if status in (401, 403):
        kind, reason = Kind.PERSON, rejected
    elif status == 404 and _says_gone(operation, error.body):
        kind, reason = Kind.GONE, Reason.SESSION_ENDED
    elif status == 404:
        # Not Anthropic's own answer (a proxy's, a gateway's): it says nothing about the session.
        kind, reason = Kind.RETRY, Reason.ENVIRONMENT_UNREACHABLE
    elif status == 429:
        kind, reason = Kind.QUOTA, Reason.ENVIRONMENT_UNREACHABLE
    elif status >= 500:
        kind, reason = Kind.RETRY, Reason.ENVIRONMENT_UNREACHABLE
    else:
        kind, reason = Kind.PERSON, Reason.WORK_LOST
    return Failure(kind, reason, said, _retry_after(error), definite=status < 500, status=status)
