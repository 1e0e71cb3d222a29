"""Identifiers in Anthropic's format."""

from __future__ import annotations

import secrets
import string

_ALPHABET = string.digits + string.ascii_letters


def new_id(prefix: str) -> str:
    """Return a new identifier such as ``sesn_01AbC…`` (mixed case, 24 characters after the prefix)."""
    return f"{prefix}_01" + "".join(secrets.choice(_ALPHABET) for _ in range(22))
