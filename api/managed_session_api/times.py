"""Formats and converts times for the resource."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_CLAIM_FORMAT = "%Y%m%dT%H%M%S.%fZ"


def as_utc(value: datetime) -> datetime:
    """Return `value` in UTC. A time without a zone counts as UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def to_wire(value: datetime) -> str:
    """Format as RFC 3339 with microseconds, like Kubernetes' MicroTime. As text, this sorts by time."""
    return as_utc(value).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def claim_name(offered_at: datetime, after: str | None = None) -> str:
    """Return the ID of the claim on an offer: text that sorts by time.

    Args:
        offered_at: when the offer was received.
        after: the newest claim so far. The result always sorts after it, even if the clock was set back.
    """
    candidate = as_utc(offered_at).strftime(_CLAIM_FORMAT)
    if after is not None and candidate <= after:
        last = datetime.strptime(after, _CLAIM_FORMAT).replace(tzinfo=UTC)
        candidate = (last + timedelta(microseconds=1)).strftime(_CLAIM_FORMAT)
    return candidate
