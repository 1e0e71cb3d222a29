"""Chooses words of messages that depend on numbers and on times."""

from __future__ import annotations

from datetime import datetime

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun: `1 pod`, `2 pods`. Pass the plural if it is irregular."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Return a length of time: `0.4s`, `12s`, `3m05s`, `2h07m`, `3d4h`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02d}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02d}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR}h"


def ago(at: datetime, now: datetime) -> str:
    """Return how long ago something was, in whole units: `5s`, `3m`, `2h`, `4d`."""
    seconds = max(0, int((now - at).total_seconds()))
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m")):
        if seconds >= 2 * unit:
            return f"{seconds // unit}{name}"
    return f"{seconds}s"
