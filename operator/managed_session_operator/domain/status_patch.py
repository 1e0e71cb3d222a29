"""Computes what a write to a resource's status changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from managed_session_api.conditions import Phase, Reason
from managed_session_api.resource import ManagedSession
from managed_session_api.times import to_wire

from managed_session_operator.domain import class_budget
from managed_session_operator.domain.conditions import ConditionUpdate, merge_conditions
from managed_session_operator.domain.cost import NO_PRICES, SandboxPrices, cost_fields
from managed_session_operator.domain.usage import Usage


def status_patch(
    resource: ManagedSession,
    now: datetime,
    *,
    phase: Phase | None = None,
    conditions: list[ConditionUpdate] | None = None,
    usage: Usage | None = None,
    prices: SandboxPrices = NO_PRICES,
    **fields: Any,
) -> dict[str, Any]:
    """Return a merge patch of the status; empty if nothing would change.

    Args:
        resource: the resource as it is now.
        now: the time of the change.
        phase: the wanted phase.
        conditions: the wanted conditions.
        usage: what Anthropic reports that the session has used, if that was read.
        prices: what running sandboxes cost.
        fields: other top-level fields in JSON form. None inside a field removes a value.
    """
    patch: dict[str, Any] = {}
    changes = {
        **class_budget.counted(resource, fields, now),
        **cost_fields(resource, fields, now, usage=usage, prices=prices),
        **fields,
    }
    current = resource.status.to_json() if changes else {}
    for key, value in changes.items():
        wanted = _wire(value)
        if not _contains(current.get(key), wanted):
            patch[key] = wanted
    merged = merge_conditions(resource, _with_missing_skills(resource, conditions or [], fields), now)
    if merged is not None:
        patch["conditions"] = merged
    if phase is not None and resource.status.phase != phase:
        patch["phase"] = str(phase)
    if (patch or conditions) and resource.status.observed_generation != resource.metadata.generation:
        patch["observedGeneration"] = resource.metadata.generation
    return patch


def _with_missing_skills(
    resource: ManagedSession, conditions: list[ConditionUpdate], fields: Mapping[str, Any]
) -> list[ConditionUpdate]:
    """Return the conditions. If the running sandbox lacks skills, SandboxReady names them."""
    sandbox = fields.get("sandbox") or {}
    missing = sandbox.get("missingSkills", resource.status.sandbox.missing_skills)
    if not missing:
        return conditions
    message = f"The turn runs without these skills: {'; '.join(missing)}"
    return [
        replace(update, reason=Reason.SKILL_MISSING, message=message)
        if update.reason is Reason.SANDBOX_RUNNING
        else update
        for update in conditions
    ]


def _wire(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_wire(value)
    if isinstance(value, dict):
        return {key: _wire(item) for key, item in value.items()}
    return value


def _contains(current: Any, wanted: Any) -> bool:
    """Return whether merging `wanted` into `current` would change nothing."""
    if isinstance(wanted, dict):
        return isinstance(current, dict) and all(
            (key not in current) if item is None else _contains(current.get(key), item)
            for key, item in wanted.items()
        )
    return bool(current == wanted)
