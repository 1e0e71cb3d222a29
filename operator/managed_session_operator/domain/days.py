"""Days in UTC, by which use and costs are counted. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta


def day_of(now: datetime) -> str:
    """Return the day in UTC."""
    return f"{now.astimezone(UTC):%Y-%m-%d}"


def midnight(now: datetime) -> datetime:
    """Return when the day began in UTC."""
    return datetime.combine(now.astimezone(UTC).date(), time(), UTC)


def until_tomorrow(now: datetime) -> float:
    """Return the seconds until the next day in UTC."""
    return (midnight(now) + timedelta(days=1) - now).total_seconds()
