"""Finds out from an exit record whether the session's memory stores are in sync. Pure."""

from __future__ import annotations

from managed_session_api.conditions import ConditionStatus, ConditionType, Reason
from managed_session_api.resource import ManagedSession
from managed_session_worker.protocol import ExitReason

from managed_session_operator.domain.conditions import ConditionUpdate
from managed_session_operator.domain.worker_run import ExitRecord

_MOST_FAILURES = 3
_LONGEST = 250
_NOT_MOUNTED = "SessionMemoryError"
"""The SDK's exception for a store that cannot be mounted. The exit record's message begins with it."""


def memory_conditions(resource: ManagedSession, record: ExitRecord | None) -> list[ConditionUpdate]:
    """Return what to write about memory stores when a worker has ended.

    The condition stays until a worker has served the session and has synced everything.
    """
    if record is None:
        return []
    if message := _message(record):
        return [
            ConditionUpdate(
                ConditionType.MEMORY_STORE_FAILED,
                ConditionStatus.TRUE,
                Reason.MEMORY_STORE_FAILED,
                message,
                announced=True,
            )
        ]
    known = resource.status.condition(ConditionType.MEMORY_STORE_FAILED) is not None
    if known and record.first_heartbeat_at is not None and record.reason == ExitReason.IDLE:
        return [
            ConditionUpdate(
                ConditionType.MEMORY_STORE_FAILED, ConditionStatus.FALSE, Reason.READY, removed=True
            )
        ]
    return []


def _message(record: ExitRecord) -> str:
    """Say what is not in sync; empty if all is."""
    if (record.message or "").startswith(_NOT_MOUNTED):
        return f"The session's memory stores could not be mounted: {record.message}"[: _LONGEST * 2]
    found = [
        f"Memory store {str(each.get('store'))[:80]}: {str(each.get('why'))[:_LONGEST]}."
        for each in record.memory_failures
    ]
    if record.unsynchronised:
        found.append(
            f"Files of memory stores that a killed worker had not uploaded are kept in the sandbox "
            f"({len(record.unsynchronised)}), such as {record.unsynchronised[0][:_LONGEST]}."
        )
    more = [f"And {len(found) - _MOST_FAILURES} more."] if len(found) > _MOST_FAILURES else []
    return " ".join([*found[:_MOST_FAILURES], *more])
