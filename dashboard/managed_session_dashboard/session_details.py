"""Makes what the page of one session shows, from its resource and its Kubernetes Events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from managed_session_api.reasons import REASONS

from managed_session_dashboard.cost import cost_of
from managed_session_dashboard.rows import phase_of
from managed_session_dashboard.session_events import SessionEvents
from managed_session_dashboard.traces import trace_of
from managed_session_dashboard.turns import turns_of

_MAX_MESSAGE = 1024
_SANDBOX = ("id", "state", "templateID", "startedAt", "savedAt", "sharedBy", "missingSkills")
_WORK = (
    "id", "offeredAt", "acknowledgedAt", "startedAt", "firstHeartbeatAt", "awaitingUserSince", "finishedAt",
    "exitReason", "stopReason", "attempts",
)  # fmt: skip
_EFFECTIVE = (
    "template",
    "timeoutSeconds",
    "maxIdleSeconds",
    "idleTTLSeconds",
    "ttlSecondsAfterEnd",
    "onSandboxLost",
)
_MEANINGS = {reason.value: doc for reason, doc in REASONS.items()}


def compact(resource: Mapping[str, Any]) -> str:
    """Return the parts of a ManagedSession that its page shows, as JSON. They are few and hold no secret."""
    metadata, spec, status = resource["metadata"], resource["spec"], resource.get("status") or {}
    kept = {
        "name": metadata["name"],
        "uid": metadata.get("uid", ""),
        "created": metadata.get("creationTimestamp"),
        "phase": phase_of(resource),
        "session": spec["sessionID"],
        "agent": spec.get("agentID"),
        "environment": spec.get("environmentID"),
        "class": (status.get("class") or {}).get("name"),
        "turns": status.get("turns", 0),
        "lastActive": status.get("lastActiveTime"),
        "ended": status.get("endedAt"),
        "suspended": bool((spec.get("lifecycle") or {}).get("suspend")),
        "sandbox": _chosen(status.get("sandbox"), _SANDBOX),
        "work": _chosen(status.get("work"), _WORK),
        "effective": _chosen(status.get("effective"), _EFFECTIVE),
        "conditions": [_condition(each) for each in status.get("conditions") or ()],
        "cost": cost_of(resource),
        "trace": trace_of(resource),
    }
    return json.dumps(kept, separators=(",", ":"), ensure_ascii=False)


def details(kept: str, all_events: SessionEvents) -> dict[str, Any]:
    """Return the JSON of a session's page from what `compact` has kept, and from its Events."""
    session: dict[str, Any] = json.loads(kept)
    events = all_events.of(session["name"], session["uid"])
    for each in session["conditions"]:
        meaning = _MEANINGS.get(each["reason"])
        if meaning is not None:
            each |= {"meaning": meaning.meaning, "remedy": meaning.remedy}
    return {
        "session": session,
        "turns": [turn.to_json() for turn in turns_of(events, session)],
        "events": [
            {"at": e.at, "warning": e.warning, "reason": e.reason, "message": e.message} for e in events
        ],
    }


def _chosen(part: Mapping[str, Any] | None, keys: Sequence[str]) -> dict[str, Any]:
    return {key: part[key] for key in keys if part.get(key) is not None} if part else {}


def _condition(each: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": each.get("type", ""),
        "status": each.get("status", ""),
        "reason": each.get("reason", ""),
        "message": str(each.get("message", ""))[:_MAX_MESSAGE],
        "since": each.get("lastTransitionTime"),
    }
