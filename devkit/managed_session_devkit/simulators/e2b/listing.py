"""`GET /v2/sandboxes`: filters, order and pages."""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote_plus

from managed_session_devkit.simulators.common.times import rfc3339
from managed_session_devkit.simulators.e2b.errors import ApiError
from managed_session_devkit.simulators.e2b.sandbox import Sandbox
from managed_session_devkit.simulators.e2b.settings import Settings

_MAX_LIMIT = 100


@dataclass(frozen=True)
class Page:
    """One page: entries, in which a duplicated one appears twice, and the cursor of the next page."""

    sandboxes: list[Sandbox]
    next_token: str | None


def parse_metadata(parameter: str | None) -> dict[str, str]:
    """Parse the metadata filter. Its parameter is decoded once; keys and values are encoded twice more."""
    if not parameter:
        return {}
    wanted = {}
    for part in unquote_plus(parameter).split("&"):
        key, separator, value = part.partition("=")
        if not separator:
            raise ApiError(400, f"Error parsing metadata: invalid key value pair in query: {part}")
        wanted[unquote_plus(key)] = unquote_plus(value)
    return wanted


def _limit(parameter: str | None, page_size: int) -> int:
    if parameter is None:
        return page_size
    try:
        limit = int(parameter)
    except ValueError as error:
        raise ApiError(400, "limit must be an integer") from error
    if not 1 <= limit <= _MAX_LIMIT:
        raise ApiError(400, f"limit must be between 1 and {_MAX_LIMIT}")
    return min(limit, page_size)


def _states(parameter: str | None) -> set[str]:
    states = set((parameter or "running,paused").split(","))
    if not states <= {"running", "paused"}:
        raise ApiError(400, f"invalid state filter: {parameter}")
    return states


def _key(sandbox: Sandbox) -> tuple[str, str]:
    return rfc3339(sandbox.started_at), sandbox.id


def _cursor(token: str | None) -> tuple[str, str] | None:
    if not token:
        return None
    try:
        moment, separator, sandbox_id = base64.urlsafe_b64decode(token).decode().rpartition("__")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ApiError(400, "Invalid next token") from error
    if not separator:
        raise ApiError(400, "Invalid next token")
    return moment, sandbox_id


def list_page(sandboxes: list[Sandbox], query: dict[str, str], settings: Settings) -> Page:
    """Return the page that `query` requests. Raises ApiError 400."""
    limit, states = _limit(query.get("limit"), settings.list_page_size), _states(query.get("state"))
    metadata = parse_metadata(query.get("metadata"))
    descending = query.get("order", "desc") != "asc"
    started_after = query.get("startedAfter")
    template = query.get("template")
    after = _cursor(query.get("nextToken"))
    selected = [
        sandbox
        for sandbox in sandboxes
        if sandbox.exists
        and ("running" if sandbox.state == "running" else "paused") in states
        and sandbox.visible_in_list(settings)
        and all(sandbox.metadata.get(key) == value for key, value in metadata.items())
        and (not template or template in (sandbox.build.template_id, sandbox.alias))
        and (not started_after or sandbox.started_at > datetime.fromisoformat(started_after))
        and (after is None or (_key(sandbox) < after if descending else _key(sandbox) > after))
    ]
    selected.sort(key=_key, reverse=descending)
    page = selected[:limit]
    next_token = None
    if len(selected) > limit:
        next_token = base64.urlsafe_b64encode("__".join(_key(page[-1])).encode()).decode()
    repeated = []
    for sandbox in page:
        repeated.append(sandbox)
        if sandbox.duplicates > 0:
            sandbox.duplicates -= 1
            repeated.append(sandbox)
    return Page(repeated, next_token)
