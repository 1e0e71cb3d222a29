"""The timeline of one session, merged from all sources."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from managed_session_api import names

from ..support.sessions import sandboxes_of
from .shared_state import SharedState

Line = tuple[float, str, str]
"""Seconds since the epoch, the source, and what happened."""


async def timeline(shared: SharedState, session_id: str, resource: dict[str, Any] | None) -> str:
    """Return the timeline of a session. `resource` is its state before everything was deleted."""
    system = shared.system
    report = await system.anthropic_admin.session(session_id)
    lines: list[Line] = [
        (entry["at"], "anthropic", _fields(entry, without=("at",))) for entry in report.timeline
    ]
    lines += [
        (entry["at"], "webhook", _fields(entry, without=("at", "object_id"))) for entry in report.deliveries
    ]
    for sandbox in await sandboxes_of(system, session_id):
        lines += [
            (_seconds(entry["at"]), "sandbox", f"{sandbox.id} {entry['event']}") for entry in sandbox.history
        ]
        calls = (await system.e2b_admin.ledger(sandbox_id=sandbox.id)).calls
        lines += [
            (_seconds(call["at"]), "e2b", _fields(call, without=("at", "path", "method"))) for call in calls
        ]
    lines += [
        (entry.at, entry.who, entry.text)
        for entry in shared.trace.entries
        if entry.session_id in ("", session_id)
    ]
    lines += await _kubernetes_events(shared, session_id)
    for name, path in system.logs.items():
        if name in shared.pods:
            lines += _log_lines(name, path, session_id)
    ends = [at for at, who, _ in lines if who in ("anthropic", "sandbox")]
    return "\n".join(
        [
            f"session {session_id}, resource {names.resource_name(session_id)}",
            f"resource in the end: {json.dumps(resource)}",
            *render(lines, since=min(ends, default=0.0) - 5),
        ]
    )


def render(lines: Iterable[Line], *, since: float) -> list[str]:
    """Return the lines in the order of time, each with its time of day."""
    return [
        f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f} {who:<12} {what}"
        for at, who, what in sorted(lines, key=lambda line: line[0])
        if at >= since
    ]


async def _kubernetes_events(shared: SharedState, session_id: str) -> list[Line]:
    found = await shared.kubectl(
        "get", "events",
        f"--field-selector=involvedObject.name={names.resource_name(session_id)}", "--output=json",
    )  # fmt: skip
    events = json.loads(found)["items"] if found else []
    return [
        (
            _seconds(
                event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
            ),
            "event",
            f"{event['type']} {event['reason']}: {event.get('message', '')}",
        )
        for event in events
    ]


def _log_lines(name: str, path: Path, session_id: str) -> list[Line]:
    wanted = (session_id, names.resource_name(session_id))
    found: list[Line] = []
    with path.open(errors="replace") as log:
        for line in log:
            if any(each in line for each in wanted):
                try:
                    entry = json.loads(line)
                    found.append((_seconds(entry["time"]), name, _fields(entry, without=("time",))))
                except (ValueError, KeyError):
                    continue
    return found


def _fields(entry: dict[str, Any], *, without: tuple[str, ...]) -> str:
    return " ".join(
        f"{key}={value}" for key, value in entry.items() if key not in without and value is not None
    )


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
