"""Says what the status of a class reports. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from managed_session_api.conditions import ConditionStatus, ConditionType, Reason
from managed_session_api.resource import Condition
from managed_session_api.session_class import ClassActivity, ManagedSessionClass

from managed_session_operator.domain import class_budget
from managed_session_operator.domain.class_budget import ClassUsage
from managed_session_operator.domain.conditions import MAX_MESSAGE

_COUNTS = ("sessions", "activeSandboxes", "waiting", "activeToday")


def ready_condition(
    each: ManagedSessionClass, tied_with: Collection[str], *, spent: bool, reduced: str | None = None
) -> tuple[ConditionStatus, Reason, str]:
    """Return status, reason and message of the class's Ready condition.

    Args:
        each: the class.
        tied_with: other classes of the same precedence that match the same sessions.
        spent: whether its budget of today is used up.
        reduced: why the class cannot have all its guaranteed slots; None if it can.
    """
    if tied_with:
        message = (
            f"Sessions that this class matches are also matched, with the same precedence, by "
            f"{', '.join(sorted(tied_with))}."
        )
        return ConditionStatus.FALSE, Reason.AMBIGUOUS, message
    if spent:
        return ConditionStatus.FALSE, Reason.BUDGET_REACHED, class_budget.spent_message(each)
    if reduced is not None:
        return ConditionStatus.TRUE, Reason.GUARANTEES_REDUCED, reduced
    return ConditionStatus.TRUE, Reason.READY, ""


def class_status(
    each: ManagedSessionClass,
    outranked: list[str],
    usage: ClassUsage,
    activity: ClassActivity | None,
    ready: tuple[ConditionStatus, Reason, str],
    now: datetime,
) -> dict[str, Any]:
    """Return a merge patch of the class's status; empty if nothing changes."""
    status = each.status
    wanted: dict[str, Any] = {
        "sessions": usage.sessions,
        "activeSandboxes": usage.active_sandboxes,
        "waiting": usage.waiting,
        "outrankedBy": outranked,
        "observedGeneration": each.metadata.generation,
    }
    if each.spec.limits.max_active_seconds_per_day is not None and activity is not None:
        wanted["activeToday"] = activity.to_json()
    elif status.active_today is not None:
        wanted["activeToday"] = None
    # A number that was never written is shown as nothing, so even a 0 is written once.
    current = status.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    patch = {key: value for key, value in wanted.items() if current.get(key) != value}
    if (conditions := _conditions(each, ready, now)) is not None:
        patch["conditions"] = conditions
    return patch


def only_counts(patch: dict[str, Any]) -> bool:
    """Return whether the patch changes nothing but numbers, which can wait."""
    return all(key in _COUNTS for key in patch)


def _conditions(
    each: ManagedSessionClass, ready: tuple[ConditionStatus, Reason, str], now: datetime
) -> list[dict[str, Any]] | None:
    state, reason, message = ready[0], ready[1], ready[2][:MAX_MESSAGE]
    old = next((known for known in each.status.conditions if known.type == ConditionType.READY), None)
    if old is not None and (old.status, old.reason, old.message) == (state, reason, message):
        return None
    since = old.last_transition_time if old is not None and old.status == state else now
    condition = Condition(
        type=ConditionType.READY,
        status=state,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=each.metadata.generation,
    )
    others = [known.to_json() for known in each.status.conditions if known.type != ConditionType.READY]
    return [condition.to_json(), *others]


def invalid_status(body: dict[str, Any], fields: list[str], now: datetime) -> dict[str, Any]:
    """Return a merge patch of the status of a class that this version cannot read; empty if it says so."""
    message = f"This version of the operator cannot read {', '.join(fields)}."[:MAX_MESSAGE]
    known = (body.get("status") or {}).get("conditions") or []
    if any(each.get("reason") == Reason.INVALID and each.get("message") == message for each in known):
        return {}
    condition = Condition(
        type=ConditionType.READY,
        status=ConditionStatus.FALSE,
        reason=Reason.INVALID,
        message=message,
        last_transition_time=now,
        observed_generation=body["metadata"].get("generation"),
    )
    return {"conditions": [condition.to_json()]}
