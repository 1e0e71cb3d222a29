"""The few kinds of failure that the reconciler tells apart.

Every client translates its SDK's exceptions into one `Failure`; the reconciler turns it into a condition,
an Event, a metric and a delay in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from managed_session_api.conditions import Reason


class Kind(StrEnum):
    """What a failure asks of the operator."""

    RETRY = "retry"
    """Transient: the same step again after a short, growing delay."""
    QUOTA = "quota"
    """A limit of the outside system: the same step again after a longer delay."""
    PERSON = "person"
    """Somebody has to change something; tried again at a slow pace so that the change is noticed."""
    GONE = "gone"
    """The thing that was asked for does not exist any more."""


@dataclass
class Failure(Exception):  # noqa: N818 - it is the domain's word
    """A step that could not be done.

    Attributes:
        kind: what to do about it.
        reason: the condition's reason.
        message: one sentence for a person; never holds a secret.
        retry_after: seconds the outside asked us to wait, if it said so.
        definite: the outside certainly did not do what was asked (False: it may have).
        status: the HTTP status of the answer, if there was one.
    """

    kind: Kind
    reason: Reason
    message: str
    retry_after: float | None = None
    definite: bool = True
    status: int | None = None

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class NotLeadingError(Exception):
    """The effect was not sent, because this process does not hold a valid Lease."""


class ConflictError(Exception):
    """The resource changed since it was read; read it again."""


class ResourceGoneError(Exception):
    """The resource does not exist any more."""


_BASE_SECONDS = {Kind.RETRY: 1.0, Kind.GONE: 1.0, Kind.QUOTA: 5.0, Kind.PERSON: 10.0}
_CAP_SECONDS = {Kind.RETRY: 60.0, Kind.GONE: 60.0, Kind.QUOTA: 60.0, Kind.PERSON: 120.0}


def retry_delay(failure: Failure, consecutive: int, scale: float = 1.0) -> float:
    """Seconds to wait before the step is tried again.

    Args:
        failure: what happened.
        consecutive: how many times in a row the resource has failed, this time included (1 or more).
        scale: factor on our own delays (`MANAGED_SESSIONS_RETRY_SCALE`); what the outside asked for stays.
    """
    own = min(_BASE_SECONDS[failure.kind] * 2.0 ** (consecutive - 1), _CAP_SECONDS[failure.kind]) * scale
    return max(own, failure.retry_after or 0.0)
