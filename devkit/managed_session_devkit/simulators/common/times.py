"""Times in the format of both clouds."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def rfc3339(at: datetime) -> str:
    """Write a time as RFC 3339 in UTC, with microseconds and `Z`."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def timestamp() -> str:
    """Return the current time as RFC 3339."""
    return rfc3339(now())
