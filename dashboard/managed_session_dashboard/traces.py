"""Reads the trace of a session's newest turn from its resource (`status.work.trace`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f][13579bdf]")
"""W3C Trace Context of a trace that is sent: the last bit of its flags says so."""


def trace_of(resource: Mapping[str, Any]) -> str:
    """Return the trace ID of the newest turn, 32 hexadecimal digits; empty if its trace is not sent."""
    work = (resource.get("status") or {}).get("work") or {}
    found = _TRACEPARENT.fullmatch(str((work.get("trace") or {}).get("traceparent", "")))
    return found[1] if found else ""
