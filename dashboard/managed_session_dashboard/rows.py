"""Makes the rows of the page's tables from resources: short, and only what the page shows.

A row is a list of values in the order of its table's columns. Times are seconds since the epoch. Nothing that
can hold a secret is in a row: no variables, no metadata, no values of Secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from managed_session_api.conditions import PASSING_REASONS, ConditionType, Phase, Reason
from managed_session_api.events import RUN_STARTED

from managed_session_dashboard.board import Table
from managed_session_dashboard.cost import cost_of
from managed_session_dashboard.traces import trace_of

Body = Mapping[str, Any]
"""A resource or a part of one, as JSON."""

COLUMNS: dict[Table, tuple[str, ...]] = {
    Table.SESSIONS: (
        "name", "session", "phase", "reason", "message", "class", "agent", "environment", "sandbox",
        "shared", "turns", "waiting", "active", "created", "cost", "currency", "trace",
    ),
    Table.CLASSES: (
        "name", "ready", "reason", "message", "precedence", "selects", "weight", "guaranteed", "maximum",
        "sessions", "used", "waiting", "today", "todaySeconds", "budgetSeconds", "template",
    ),
    Table.SHARED: ("name", "scope", "key", "class", "state", "sessions"),
}  # fmt: skip
"""Names of the columns, in the order of a row's values. The first one is the key."""

_MAX_MESSAGE = 200
_WAITING = {reason.value for reason in (*PASSING_REASONS, Reason.BUDGET_REACHED)}


def seconds(time: object) -> float | None:
    """Return a time of a resource as seconds since the epoch, or None."""
    if not isinstance(time, str):
        return None
    try:
        return round(datetime.fromisoformat(time).timestamp(), 3)
    except ValueError:
        return None


def condition(status: Body, type_: ConditionType) -> Body:
    """Return a condition; empty if there is none of this type."""
    found = (each for each in status.get("conditions") or () if each.get("type") == type_.value)
    return next(found, {})


def waiting_since(status: Body) -> float | None:
    """Return since when a message waits for its worker, or None."""
    ready = condition(status, ConditionType.READY)
    if ready.get("reason") not in _WAITING:
        return None
    work, event = status.get("work") or {}, status.get("lastEvent") or {}
    finished = seconds(work.get("finishedAt"))
    offered = seconds(work.get("offeredAt"))
    announced = seconds(event.get("createdAt")) if event.get("type") == RUN_STARTED else None
    since = [
        time for time in (offered, announced) if time is not None and (finished is None or time > finished)
    ]
    return min(since) if since else seconds(ready.get("lastTransitionTime"))


def phase_of(resource: Body) -> str:
    """Return the phase that the page shows."""
    if resource["metadata"].get("deletionTimestamp"):
        return Phase.TERMINATING.value
    return str((resource.get("status") or {}).get("phase") or Phase.PENDING.value)


def session_row(resource: Body) -> list[Any]:
    """Return the row of a ManagedSession."""
    metadata, spec, status = resource["metadata"], resource["spec"], resource.get("status") or {}
    ready = condition(status, ConditionType.READY)
    sandbox, cost = status.get("sandbox") or {}, cost_of(resource)
    return [
        metadata["name"],
        spec["sessionID"],
        phase_of(resource),
        ready.get("reason", ""),
        ready.get("message", "")[:_MAX_MESSAGE],
        (status.get("class") or {}).get("name", ""),
        spec.get("agentID", ""),
        spec.get("environmentID", ""),
        sandbox.get("state", ""),
        sandbox.get("sharedBy", ""),
        status.get("turns", 0),
        waiting_since(status),
        seconds(status.get("lastActiveTime")),
        seconds(metadata.get("creationTimestamp")),
        cost.get("total"),
        cost.get("currency", ""),
        trace_of(resource),
    ]


def class_row(resource: Body) -> list[Any]:
    """Return the row of a ManagedSessionClass."""
    spec, status = resource.get("spec") or {}, resource.get("status") or {}
    limits, today = spec.get("limits") or {}, status.get("activeToday") or {}
    ready = condition(status, ConditionType.READY)
    return [
        resource["metadata"]["name"],
        ready.get("status", ""),
        ready.get("reason", ""),
        ready.get("message", "")[:_MAX_MESSAGE],
        spec.get("precedence", 0),
        selects(spec.get("selector")),
        limits.get("weight", 1),
        limits.get("guaranteedSlots", 0),
        limits.get("maxActiveSandboxes"),
        status.get("sessions", 0),
        status.get("activeSandboxes", 0),
        status.get("waiting", 0),
        today.get("day", ""),
        today.get("seconds", 0),
        limits.get("maxActiveSecondsPerDay"),
        ((spec.get("session") or {}).get("sandbox") or {}).get("template", ""),
    ]


def selects(selector: Body | None) -> str:
    """Describe in words which sessions a class is for."""
    if not selector:
        return "all others"
    parts = [
        f"{words} {', '.join(map(str, selector[key]))}"
        for key, words in (("agentIDs", "agent"), ("agentNames", "agent named"))
        if selector.get(key)
    ]
    if selector.get("environmentID"):
        parts.append(f"environment {selector['environmentID']}")
    metadata = selector.get("sessionMetadata") or {}
    parts += [f"{key}={value}" for key, value in (metadata.get("matchLabels") or {}).items()]
    for each in metadata.get("matchExpressions") or ():
        values = f" ({', '.join(each['values'])})" if each.get("values") else ""
        parts.append(f"{each['key']} {each['operator']}{values}")
    return "; ".join(parts)[:_MAX_MESSAGE] or "all others"


def shared_row(resource: Body) -> list[Any]:
    """Return the row of a ManagedSandbox."""
    spec, status = resource.get("spec") or {}, resource.get("status") or {}
    return [
        resource["metadata"]["name"],
        spec.get("scope", ""),
        spec.get("key", ""),
        spec.get("sessionClass", ""),
        status.get("state", ""),
        status.get("sessions", 0),
    ]
