"""Defines the errors of operations, and the few kinds that the reconciler distinguishes.

Every client translates its SDK's exceptions into an `OperationError`. One place in the reconciler turns it
into a condition, an Event, a metric and a delay.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from managed_session_api.conditions import Reason
from managed_session_runtime.kubernetes_errors import ConflictError, ResourceGoneError

__all__ = [
    "ConflictError",
    "ErrorKind",
    "NotLeadingError",
    "OperationError",
    "ResourceGoneError",
    "UnderWayError",
    "retry_delay",
]


class ErrorKind(StrEnum):
    """What an error requires of the operator."""

    TRANSIENT = "transient"
    """Temporary: repeat the step after a short, growing delay."""
    RATE_LIMITED = "rate_limited"
    """A limit of the outside system: repeat the step after a longer delay."""
    USER_ACTION = "user_action"
    """Someone has to change something. Repeat the step slowly, to notice the change."""
    NOT_FOUND = "not_found"
    """The target no longer exists."""
    STALE = "stale"
    """The sandbox crashed: E2B's record says that it is running, but it can only be paused."""


@dataclass
class OperationError(Exception):
    """An operation on an outside system failed.

    Attributes:
        kind: what to do about it.
        reason: the reason for the condition.
        message: a sentence for people. Never contains a secret.
        retry_after: seconds that the outside system asked to wait, if it did.
        outcome_known: whether the operation certainly had no effect; otherwise it may have had one.
        status: HTTP status of the response, if there was one.
        in_progress: whether the outside system still processes a request with the same idempotency key.
    """

    kind: ErrorKind
    reason: Reason
    message: str
    retry_after: float | None = None
    outcome_known: bool = True
    status: int | None = None
    in_progress: bool = False

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    def ends_attempt(self, *, repeated: bool) -> bool:
        """Return whether this error of a create ends its attempt.

        E2B repeats its answer to an idempotency key, refusals included. So an attempt ends with a definite
        refusal, and with any answer to a key that was sent before. It goes on while a request with the key
        is still in progress, and while the outcome is unknown.

        Args:
            repeated: whether the key may have been sent before.
        """
        return (self.outcome_known or (repeated and self.status is not None)) and not self.in_progress


class NotLeadingError(Exception):
    """The call was not sent, because this process does not hold a valid Lease."""


class UnderWayError(Exception):
    """There is no response yet, and the call stays open. The same step joins it when it is repeated."""


_BASE_SECONDS = {
    ErrorKind.TRANSIENT: 1.0,
    ErrorKind.NOT_FOUND: 1.0,
    ErrorKind.STALE: 1.0,
    ErrorKind.RATE_LIMITED: 5.0,
    ErrorKind.USER_ACTION: 10.0,
}
_CAP_SECONDS = {
    ErrorKind.TRANSIENT: 60.0,
    ErrorKind.NOT_FOUND: 60.0,
    ErrorKind.STALE: 60.0,
    ErrorKind.RATE_LIMITED: 60.0,
    ErrorKind.USER_ACTION: 120.0,
}


def retry_delay(error: OperationError, consecutive: int, scale: float = 1.0) -> float:
    """Return the seconds to wait before the step is repeated.

    Args:
        error: the error of the step.
        consecutive: number of consecutive errors of the resource, including this one.
        scale: multiplies our own delays (`MANAGED_SESSIONS_RETRY_SCALE`), but not that of the outside system.
    """
    own = min(_BASE_SECONDS[error.kind] * 2.0 ** (consecutive - 1), _CAP_SECONDS[error.kind]) * scale
    return max(own, error.retry_after or 0.0)
