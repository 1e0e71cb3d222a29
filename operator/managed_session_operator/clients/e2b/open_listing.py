"""Reads pages of E2B's list of sandboxes that the SDK cannot parse.

The SDK parses a page as a whole: one sandbox with an unknown state or a missing field makes the page and
therefore the whole list fail. Such a page is requested again and parsed entry by entry.
"""

from __future__ import annotations

import logging
import urllib.parse
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import e2b
from e2b.api.client.api.sandboxes import get_v2_sandboxes
from e2b.api.client.types import UNSET
from e2b.api.client_async import get_api_client
from e2b.connection_config import ConnectionConfig
from managed_session_api.times import as_utc

logger = logging.getLogger(__name__)

_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""Errors that the SDK's generated parsers raise."""


async def next_page(pages: e2b.AsyncSandboxPaginator) -> Sequence[e2b.SandboxInfo]:
    """Return the paginator's next page, without unreadable entries.

    A sandbox in an unknown state counts as paused, because it is not known to be running. Raises what
    `next_items` raises.
    """
    try:
        return await pages.next_items()
    except _UNREADABLE as error:
        logger.warning("reading a page of sandboxes entry by entry", extra={"cause": type(error).__name__})
        return await _entry_by_entry(pages)


async def _entry_by_entry(pages: e2b.AsyncSandboxPaginator) -> Sequence[e2b.SandboxInfo]:
    query = pages.query or e2b.SandboxQuery()
    pairs = {urllib.parse.quote(k): urllib.parse.quote(v) for k, v in (query.metadata or {}).items()}
    request = get_v2_sandboxes._get_kwargs(  # noqa: SLF001 - pinned by tests/unit/operator/test_pinned_sdks.py
        metadata=urllib.parse.urlencode(pairs) or UNSET,
        state=query.state or UNSET,
        limit=pages.limit or UNSET,
        next_token=pages._next_token or UNSET,  # noqa: SLF001 - as above
    )
    client = get_api_client(ConnectionConfig(**pages._opts))  # noqa: SLF001 - as above
    response = await client.get_async_httpx_client().request(**request)
    response.raise_for_status()
    entries = response.json()
    if not isinstance(entries, list):
        raise TypeError("the list of sandboxes is not a list")
    found = [info for info in map(_info, entries) if info is not None]
    pages._update_pagination(response.headers)  # noqa: SLF001 - as above
    return found


def _info(entry: Any) -> e2b.SandboxInfo | None:
    """Convert an entry; None if it lacks what identifies the sandbox as ours, or its start."""
    try:
        known = set(e2b.SandboxState)
        state = entry.get("state")
        metadata = entry.get("metadata") or {}
        started_at = as_utc(datetime.fromisoformat(entry["startedAt"]))
        return e2b.SandboxInfo(
            sandbox_id=entry["sandboxID"],
            sandbox_domain=None,
            template_id=str(entry.get("templateID", "")),
            name=None,
            metadata={str(name): str(value) for name, value in metadata.items()},
            started_at=started_at,
            end_at=as_utc(datetime.fromisoformat(entry["endAt"])) if "endAt" in entry else started_at,
            state=e2b.SandboxState(state)
            if isinstance(state, str) and state in known
            else e2b.SandboxState.PAUSED,
            cpu_count=0,
            memory_mb=0,
            envd_version="",
        )
    except (*_UNREADABLE, OverflowError) as error:
        logger.warning("ignoring an unreadable sandbox in the list", extra={"cause": type(error).__name__})
        return None
