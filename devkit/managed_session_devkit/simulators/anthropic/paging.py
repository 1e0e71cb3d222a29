"""Paging with `limit` and an opaque cursor, `page`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from starlette.datastructures import QueryParams

from managed_session_devkit.simulators.anthropic.errors import APIError

T = TypeVar("T")


def page_of(rows: Sequence[T], cursor: str | None, limit: int) -> tuple[list[T], str | None]:
    """Return a page and the next one's cursor. Raises APIError 400 for an unknown cursor."""
    start = 0
    if cursor:
        try:
            start = int(base64.urlsafe_b64decode(cursor).decode().removeprefix("page:"))
        except ValueError:
            raise APIError(400, "page: invalid cursor") from None
    end = start + limit
    following = base64.urlsafe_b64encode(f"page:{end}".encode()).decode() if end < len(rows) else None
    return list(rows[start:end]), following


def limit_of(value: int | None, default: int, maximum: int) -> int:
    """Return the page size. Raises APIError 400 outside 1-maximum."""
    if value is None:
        return default
    if not 1 <= value <= maximum:
        raise APIError(400, f"limit: must be between 1 and {maximum}")
    return value


def within(at: datetime, query: QueryParams) -> bool:
    """Return whether a time satisfies the ``created_at[gt|gte|lt|lte]`` filters. Raises APIError 400."""
    tests: dict[str, Any] = {"gt": at.__gt__, "gte": at.__ge__, "lt": at.__lt__, "lte": at.__le__}
    for name, test in tests.items():
        value = query.get(f"created_at[{name}]")
        if value is None:
            continue
        try:
            bound = datetime.fromisoformat(value.replace(" ", "+"))
        except ValueError:
            raise APIError(400, f"created_at[{name}]: not an RFC 3339 time") from None
        if bound.tzinfo is None:
            bound = bound.replace(tzinfo=at.tzinfo)
        if not test(bound):
            return False
    return True
