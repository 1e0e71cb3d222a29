"""Pure functions that build the parts of a status patch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from managed_session_api.conditions import ConditionStatus, ConditionType, Phase, Reason
from managed_session_api.resource import Condition, ManagedSession
from managed_session_api.times import to_wire

MAX_MESSAGE = 1024


@dataclass(frozen=True)
class Verdict:
    """One condition as it should be now."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str = ""


def ready(reason: Reason, message: str = "") -> Verdict:
    """Ready=True: the session's next message would be served."""
    return Verdict(ConditionType.READY, ConditionStatus.TRUE, reason, message)


def not_ready(reason: Reason, message: str = "") -> Verdict:
    """Ready=False."""
    return Verdict(ConditionType.READY, ConditionStatus.FALSE, reason, message)


def sandbox_ready(status: ConditionStatus, reason: Reason, message: str = "") -> Verdict:
    """The SandboxReady condition."""
    return Verdict(ConditionType.SANDBOX_READY, status, reason, message)


def worker_running(status: ConditionStatus, reason: Reason, message: str = "") -> Verdict:
    """The WorkerRunning condition."""
    return Verdict(ConditionType.WORKER_RUNNING, status, reason, message)


def workspace_lost(message: str, reason: Reason = Reason.SANDBOX_VANISHED) -> Verdict:
    """The WorkspaceLost condition."""
    return Verdict(ConditionType.WORKSPACE_LOST, ConditionStatus.TRUE, reason, message)


def merge_conditions(
    resource: ManagedSession, verdicts: list[Verdict], now: datetime
) -> list[dict[str, Any]] | None:
    """The whole list of conditions after `verdicts`; None when nothing changes.

    The transition time moves only when a condition's status changes.
    """
    merged = {condition.type: condition for condition in resource.status.conditions}
    changed = False
    for verdict in verdicts:
        old = merged.get(verdict.type)
        message = verdict.message[:MAX_MESSAGE]
        if old is not None and (old.status, old.reason, old.message) == (
            verdict.status,
            verdict.reason,
            message,
        ):
            continue
        changed = True
        merged[verdict.type] = Condition(
            type=verdict.type,
            status=verdict.status,
            reason=verdict.reason,
            message=message,
            last_transition_time=(
                old.last_transition_time if old is not None and old.status == verdict.status else now
            ),
            observed_generation=resource.metadata.generation,
        )
    if not changed:
        return None
    return [merged[type_].to_json() for type_ in ConditionType if type_ in merged]


def status_patch(
    resource: ManagedSession,
    now: datetime,
    *,
    phase: Phase | None = None,
    verdicts: list[Verdict] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A merge patch of the status; empty when nothing would change.

    Args:
        resource: as it is now.
        now: the time of the change.
        phase: the phase for people.
        verdicts: conditions as they should be.
        fields: other top-level fields in JSON form; inside a field None removes a value.
    """
    patch: dict[str, Any] = {}
    current = resource.status.to_json()
    for key, value in fields.items():
        wanted = _wire(value)
        if not _contains(current.get(key), wanted):
            patch[key] = wanted
    conditions = merge_conditions(resource, verdicts or [], now)
    if conditions is not None:
        patch["conditions"] = conditions
    if phase is not None and resource.status.phase != phase:
        patch["phase"] = str(phase)
    if (patch or verdicts) and resource.status.observed_generation != resource.metadata.generation:
        patch["observedGeneration"] = resource.metadata.generation
    return patch


def _wire(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_wire(value)
    if isinstance(value, dict):
        return {key: _wire(item) for key, item in value.items()}
    return value


def _contains(current: Any, wanted: Any) -> bool:
    """Whether merging `wanted` into `current` would change nothing."""
    if isinstance(wanted, dict):
        return isinstance(current, dict) and all(
            (key not in current) if item is None else _contains(current.get(key), item)
            for key, item in wanted.items()
        )
    return bool(current == wanted)
