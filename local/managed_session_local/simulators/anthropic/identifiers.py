"""Identifiers and times as Anthropic writes them."""

from __future__ import annotations

import secrets
import string
from datetime import UTC, datetime

_ALPHABET = string.digits + string.ascii_letters


def new_id(prefix: str) -> str:
    """Return a fresh identifier such as ``sesn_01AbC…`` (mixed case, 24 characters after the prefix)."""
    return f"{prefix}_01" + "".join(secrets.choice(_ALPHABET) for _ in range(22))


def now() -> datetime:
    """Return the present in UTC."""
    return datetime.now(UTC)


def rfc3339(at: datetime) -> str:
    """Write a time as RFC 3339 in UTC with microseconds and ``Z``."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def timestamp() -> str:
    """Return the present as RFC 3339."""
    return rfc3339(now())
