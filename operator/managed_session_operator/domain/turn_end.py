"""Plans what the status records when a worker has ended. Pure; applied in one write."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from managed_session_worker.protocol import ExitReason, lease_given_back

from managed_session_operator.domain import budget
from managed_session_operator.domain.decide import LEASE_SECONDS, lease_message
from managed_session_operator.domain.idle_patience import balance_at_end
from managed_session_operator.domain.recovery import suspected
from managed_session_operator.domain.turn import BUDGET_REACHED
from managed_session_operator.domain.usage import Usage
from managed_session_operator.domain.user_wait import NO_WAIT
from managed_session_operator.domain.worker_run import ExitRecord

_IN_DOUBT = "The worker ended, but the turn may not be over yet."


@dataclass(frozen=True)
class Ending:
    """How a worker ended.

    Attributes:
        exit_reason: why it ended.
        heartbeat: whether it had the lease.
        over: whether the session's turn is certainly over.
        stop_reason: why the turn ended, in Anthropic's words.
        record: the supervisor's exit record, if there is one.
        usage: what the session has used, if that was read.
    """

    exit_reason: str
    heartbeat: bool = True
    over: bool = False
    stop_reason: str = ""
    record: ExitRecord | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class TurnEnd:
    """What the resource reports after a worker's end.

    Attributes:
        reason: the reason for its conditions.
        message: the message that goes with the reason.
        fields: further fields of its status.
        summary: what the worker did, for the Event.
        orderly: whether no lease is left that has to lapse.
    """

    reason: Reason
    message: str
    fields: dict[str, Any]
    summary: str
    orderly: bool


def plan_turn_end(resource: ManagedSession, ending: Ending, now: datetime, *, can_interrupt: bool) -> TurnEnd:
    """Return what to record about a worker's end; `can_interrupt` says whether an API key is configured."""
    work, record = resource.status.work, ending.record
    unleased = work.serving_late_since is not None or (record is not None and record.late_since is not None)
    orderly = lease_given_back(ending.exit_reason) or unleased
    reason, message = _reason_and_message(resource, ending, now, orderly=orderly)
    first = {"firstHeartbeatAt": now} if ending.heartbeat and work.first_heartbeat_at is None else {}
    served = ending.heartbeat and ending.exit_reason != ExitReason.NO_MESSAGE
    fields = {
        "work": {
            "finishedAt": now,
            "exitReason": ending.exit_reason,
            "stopReason": ending.stop_reason or None,
            "returnBalance": balance_at_end(resource, record),
            **NO_WAIT,
            **first,
        },
        "recovery": _recovery(resource, ending, now, can_interrupt=can_interrupt),
        "turns": resource.status.turns + (1 if served else 0),
        "lastActiveTime": now,
    }
    summary = f"The worker ended: {ending.exit_reason}.{_counts(record)}"
    return TurnEnd(reason, message, fields, summary, orderly)


def _reason_and_message(
    resource: ManagedSession, ending: Ending, now: datetime, *, orderly: bool
) -> tuple[Reason, str]:
    if not orderly:
        lapses_at = now + timedelta(seconds=LEASE_SECONDS)
        return Reason.AWAITING_LEASE, lease_message(ending.exit_reason, lapses_at)
    if not ending.over:
        return Reason.AWAITING_CLAIM, _IN_DOUBT
    if ending.stop_reason == BUDGET_REACHED:
        return Reason.BUDGET_REACHED, budget.message(resource, ending.usage)
    return Reason.IDLE, ""


def _recovery(
    resource: ManagedSession, ending: Ending, now: datetime, *, can_interrupt: bool
) -> dict[str, object]:
    """Return `status.recovery` after a worker's end. It stays unchanged if the turn ended as it should."""
    if ending.over:
        event = resource.status.last_event
        # Event times come from Anthropic's clock. What was announced during the turn has been answered by it.
        early = event is not None and event.created_at > now
        checked = event.created_at if event is not None and early else now
        return {"checkedAt": checked, "attempts": 0} if early or suspected(resource) else {}
    again = ending.exit_reason == ExitReason.RESULT_REFUSED and not can_interrupt
    return {"suspectedAt": now, "attempts": resource.status.recovery.attempts + (1 if again else 0)}


def _counts(record: ExitRecord | None) -> str:
    """Describe what the worker did."""
    if record is None:
        return ""
    failed = f", {record.tool_errors} failed" if record.tool_errors else ""
    refused = f", {record.results_refused} results refused" if record.results_refused else ""
    return f" Tool calls: {record.tool_calls}{failed}{refused}."
