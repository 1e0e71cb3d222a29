"""Reads a worker's report about calls that the session's user has to answer."""

from __future__ import annotations

from typing import Any

_MOST = 5
_LONGEST = 80


def awaited_answers(calls: Any) -> tuple[str, ...]:
    """Describe the calls, up to a limit, because a sandbox's report may be of any length."""
    if not isinstance(calls, list):
        return ()
    described = [
        " ".join(f"{_text(call, 'answer')} for {_text(call, 'tool')} ({_text(call, 'id')})".split())
        for call in calls[:_MOST]
        if isinstance(call, dict)
    ]
    more = len(calls) - _MOST
    return (*described, f"{more} more") if more > 0 else tuple(described)


def _text(call: dict[str, Any], name: str) -> str:
    return str(call.get(name))[:_LONGEST]
