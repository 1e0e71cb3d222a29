"""Translates the exceptions of E2B's SDK."""

from __future__ import annotations

import e2b
from managed_session_api.conditions import Reason
from pydantic import SecretStr

from managed_session_operator.domain.errors import ErrorKind, OperationError

_MEANINGS: tuple[tuple[type[Exception], ErrorKind, Reason], ...] = (
    (e2b.SandboxNotFoundException, ErrorKind.NOT_FOUND, Reason.SANDBOX_VANISHED),
    (e2b.SandboxNotRunningException, ErrorKind.NOT_FOUND, Reason.SANDBOX_VANISHED),
    (e2b.GuestUnresponsiveException, ErrorKind.TRANSIENT, Reason.GUEST_UNRESPONSIVE),
    (e2b.AuthenticationException, ErrorKind.USER_ACTION, Reason.SANDBOX_CREDENTIAL_REJECTED),
    (e2b.SandboxUnreachableException, ErrorKind.TRANSIENT, Reason.SANDBOX_UNREACHABLE),
    (e2b.NotEnoughSpaceException, ErrorKind.TRANSIENT, Reason.SANDBOX_DISK_FULL),
    (e2b.TemplateException, ErrorKind.USER_ACTION, Reason.TEMPLATE_NOT_FOUND),
)
"""Meaning of the SDK's own exceptions, for all operations."""
_STATUS_OF = {e2b.RateLimitException: 429, e2b.ServiceBusyException: 503}
_REJECTED_CREATES = {404: Reason.TEMPLATE_NOT_FOUND, 400: Reason.SANDBOX_REQUEST_REJECTED}
_FAILED_STARTS = {"create": Reason.SANDBOX_CREATE_FAILED, "connect": Reason.SANDBOX_RESUME_FAILED}
"""Reason of a failed start, by operation."""
_FAILED = {
    **_FAILED_STARTS,
    **dict.fromkeys(("snapshot", "snapshot list", "snapshot delete"), Reason.SNAPSHOT_FAILED),
}
"""Reason of a failed call, by operation, where it has one of its own."""


def _detail(error: BaseException, secret: SecretStr) -> str:
    text = (str(error).strip().splitlines() or [""])[0].replace(secret.get_secret_value(), "…")
    return text[:200] or type(error).__name__


def _limit(operation: str, error: e2b.RateLimitException) -> Reason:
    """Return which of E2B's limits a response 429 means: running sandboxes, or requests.

    Only E2B's text shows which. The SDK puts its own text in front of it, which always mentions a rate limit.
    A rejected start without a text counts as the stricter limit, so that fewer calls are sent.
    """
    text = str(error).partition(" - ")[2].lower()
    if operation in _FAILED_STARTS and "rate limit" not in text:
        return Reason.SANDBOX_QUOTA_EXCEEDED
    return Reason.SANDBOX_RATE_LIMITED


def _is_about_volumes(error: Exception) -> bool:
    """Whether E2B refuses a create because of its volumes: "Volume mounts are not enabled."."""
    return "volume" in str(error).lower()


def translate(operation: str, error: Exception, secret: SecretStr) -> OperationError:
    """Translate an exception of the E2B SDK during `operation`.

    The SDK passes raw transport and decoding errors through. After those, the effect of the call is unknown.
    """
    message = f"The call `{operation}` to E2B failed: {_detail(error, secret)}"
    status = _STATUS_OF.get(type(error), getattr(error, "status_code", None))
    for kind_of_error, kind, reason in _MEANINGS:
        if isinstance(error, kind_of_error):
            outcome_known = not isinstance(error, e2b.SandboxUnreachableException)
            return OperationError(kind, reason, message, outcome_known=outcome_known, status=status)
    if isinstance(error, e2b.RateLimitException):
        return OperationError(ErrorKind.RATE_LIMITED, _limit(operation, error), message, status=status)
    if status == 403:
        return OperationError(
            ErrorKind.USER_ACTION, Reason.SANDBOX_CREDENTIAL_REJECTED, message, status=status
        )
    if operation == "create" and status in _REJECTED_CREATES:
        reason = Reason.VOLUME_UNAVAILABLE if _is_about_volumes(error) else _REJECTED_CREATES[status]
        return OperationError(ErrorKind.USER_ACTION, reason, message, status=status)
    if isinstance(error, e2b.VolumeException):
        return OperationError(ErrorKind.USER_ACTION, Reason.VOLUME_UNAVAILABLE, message)
    return OperationError(
        ErrorKind.TRANSIENT,
        _FAILED.get(operation, Reason.SANDBOX_UNREACHABLE),
        message,
        outcome_known=status is not None and status not in (502, 504),
        status=status,
        # E2B's `error_code` is more reliable, but the SDK only passes the message on.
        in_progress=status == 409 and "progress" in message.lower(),
    )
