"""Instants as the resource writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_CLAIM_FORMAT = "%Y%m%dT%H%M%S.%fZ"


def as_utc(value: datetime) -> datetime:
    """`value` in UTC; an instant without a zone is taken as UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def to_wire(value: datetime) -> str:
    """RFC 3339 with microseconds, the form of Kubernetes' MicroTime: sorts by age as text."""
    return as_utc(value).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def claim_name(offered_at: datetime, after: str | None = None) -> str:
    """The identity of an offer received at `offered_at`: text that sorts by age.

    Args:
        offered_at: when the offer came.
        after: the newest claim so far; the result always sorts after it, also when the clock went back.
    """
    candidate = as_utc(offered_at).strftime(_CLAIM_FORMAT)
    if after is not None and candidate <= after:
        last = datetime.strptime(after, _CLAIM_FORMAT).replace(tzinfo=UTC)
        candidate = (last + timedelta(microseconds=1)).strftime(_CLAIM_FORMAT)
    return candidate
