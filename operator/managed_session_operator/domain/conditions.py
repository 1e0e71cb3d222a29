"""Derives the conditions and the phase of a resource from a reason, and merges conditions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from managed_session_api.conditions import ConditionStatus, ConditionType, Phase, Reason
from managed_session_api.managed_sandbox import ManagedSandbox
from managed_session_api.resource import Condition, ManagedSession, SandboxState

MAX_MESSAGE = 1024


@dataclass(frozen=True)
class ConditionUpdate:
    """A condition to set."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str = ""
    announced: bool = False
    """Whether to post a warning Event as well, once the condition is written."""
    removed: bool = False
    """Whether to remove the condition instead of setting it."""


def ready(reason: Reason, message: str = "") -> ConditionUpdate:
    """Return Ready=True: the session's next message will be served."""
    return ConditionUpdate(ConditionType.READY, ConditionStatus.TRUE, reason, message)


def not_ready(reason: Reason, message: str = "") -> ConditionUpdate:
    """Return Ready=False."""
    return ConditionUpdate(ConditionType.READY, ConditionStatus.FALSE, reason, message)


def sandbox_ready(status: ConditionStatus, reason: Reason, message: str = "") -> ConditionUpdate:
    """Return the SandboxReady condition."""
    return ConditionUpdate(ConditionType.SANDBOX_READY, status, reason, message)


def worker_running(status: ConditionStatus, reason: Reason, message: str = "") -> ConditionUpdate:
    """Return the WorkerRunning condition."""
    return ConditionUpdate(ConditionType.WORKER_RUNNING, status, reason, message)


def workspace_lost(message: str) -> ConditionUpdate:
    """Return the WorkspaceLost condition of a sandbox that vanished."""
    return ConditionUpdate(
        ConditionType.WORKSPACE_LOST, ConditionStatus.TRUE, Reason.SANDBOX_VANISHED, message
    )


def workspace_rolled_back(message: str) -> ConditionUpdate:
    """Return the WorkspaceLost condition of a sandbox that went back to an earlier state."""
    return ConditionUpdate(
        ConditionType.WORKSPACE_LOST,
        ConditionStatus.TRUE,
        Reason.WORKSPACE_ROLLED_BACK,
        message,
        announced=True,
    )


def workspace_regained(message: str) -> ConditionUpdate:
    """Return the WorkspaceLost condition after the files have reappeared."""
    return ConditionUpdate(
        ConditionType.WORKSPACE_LOST, ConditionStatus.FALSE, Reason.SANDBOX_RESUMED, message
    )


def workspace_restarted(message: str) -> ConditionUpdate:
    """Return the WorkspaceRestarted condition."""
    return ConditionUpdate(
        ConditionType.WORKSPACE_RESTARTED,
        ConditionStatus.TRUE,
        Reason.GUEST_UNRESPONSIVE,
        message,
        announced=True,
    )


def tool_call_fatal(status: ConditionStatus, reason: Reason, message: str = "") -> ConditionUpdate:
    """Return the ToolCallFatal condition."""
    return ConditionUpdate(ConditionType.TOOL_CALL_FATAL, status, reason, message)


def policy_not_applied(reason: Reason, message: str) -> ConditionUpdate:
    """Return the PolicyApplied condition of a session for which its class does not apply in full."""
    return ConditionUpdate(ConditionType.POLICY_APPLIED, ConditionStatus.FALSE, reason, message)


def policy_applied() -> ConditionUpdate:
    """Return the removal of the PolicyApplied condition, once there is nothing to say."""
    return ConditionUpdate(ConditionType.POLICY_APPLIED, ConditionStatus.TRUE, Reason.READY, removed=True)


def preparation_warning(type_: ConditionType, reason: Reason, message: str) -> ConditionUpdate:
    """Return the condition HookFailed or SetupFailed."""
    return ConditionUpdate(type_, ConditionStatus.TRUE, reason, message)


def preparation_passed(type_: ConditionType) -> ConditionUpdate:
    """Return the removal of the condition HookFailed or SetupFailed."""
    return ConditionUpdate(type_, ConditionStatus.FALSE, Reason.READY, removed=True)


def secrets_not_applied(reason: Reason, message: str) -> ConditionUpdate:
    """Return the SecretsApplied condition of a running sandbox that lacks the current value of a Secret."""
    return ConditionUpdate(
        ConditionType.SECRETS_APPLIED, ConditionStatus.FALSE, reason, message, announced=True
    )


def secrets_applied() -> ConditionUpdate:
    """Return the removal of the SecretsApplied condition, once there is nothing to say."""
    return ConditionUpdate(ConditionType.SECRETS_APPLIED, ConditionStatus.TRUE, Reason.READY, removed=True)


def snapshot_failed(reason: Reason, message: str) -> ConditionUpdate:
    """Return the SnapshotFailed condition."""
    return ConditionUpdate(
        ConditionType.SNAPSHOT_FAILED, ConditionStatus.TRUE, reason, message, announced=True
    )


def snapshot_worked() -> ConditionUpdate:
    """Return the removal of the SnapshotFailed condition."""
    return ConditionUpdate(
        ConditionType.SNAPSHOT_FAILED, ConditionStatus.FALSE, Reason.SNAPSHOT_TAKEN, removed=True
    )


def merge_conditions(
    resource: ManagedSession | ManagedSandbox, updates: list[ConditionUpdate], now: datetime
) -> list[dict[str, Any]] | None:
    """Merge `updates` into the resource's conditions. Return all of them, or None if nothing changes.

    The transition time changes only with a condition's status.
    """
    merged = {condition.type: condition for condition in resource.status.conditions}
    changed = False
    for update in updates:
        if update.removed:
            changed = merged.pop(update.type, None) is not None or changed
            continue
        old = merged.get(update.type)
        message = update.message[:MAX_MESSAGE]
        if old is not None and (old.status, old.reason, old.message) == (
            update.status,
            update.reason,
            message,
        ):
            continue
        changed = True
        merged[update.type] = Condition(
            type=update.type,
            status=update.status,
            reason=update.reason,
            message=message,
            last_transition_time=(
                old.last_transition_time if old is not None and old.status == update.status else now
            ),
            observed_generation=resource.metadata.generation,
        )
    if not changed:
        return None
    return [merged[type_].to_json() for type_ in ConditionType if type_ in merged]


_TRUE, _FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE

_PHASES = {
    Reason.IDLE: Phase.IDLE,
    Reason.RUNNING: Phase.RUNNING,
    Reason.AWAITING_USER: Phase.RUNNING,
    Reason.STARTING_WORKER: Phase.PROVISIONING,
    Reason.PROVISIONING: Phase.PROVISIONING,
    Reason.PREPARING: Phase.PROVISIONING,
    Reason.AWAITING_CLAIM: Phase.PROVISIONING,
    Reason.AWAITING_MESSAGE: Phase.PENDING,
    Reason.AWAITING_CAPACITY: Phase.PENDING,
    Reason.AWAITING_LEASE: Phase.PENDING,
    Reason.BUDGET_REACHED: Phase.IDLE,
    Reason.AMBIGUOUS_CLASS: Phase.FAILED,
    Reason.TURN_TOO_LONG: Phase.FAILED,
    Reason.SUSPENDED: Phase.SUSPENDED,
    Reason.SANDBOX_VANISHED: Phase.FAILED,
    Reason.ENVIRONMENT_MISMATCH: Phase.FAILED,
    Reason.DUPLICATE_SESSION: Phase.FAILED,
    Reason.SESSION_ENDED: Phase.IDLE,
    Reason.WORKER_START_FAILED: Phase.FAILED,
    Reason.NO_SESSION_TOKEN: Phase.FAILED,
    Reason.WORK_STRANDED: Phase.FAILED,
    Reason.SESSION_STUCK: Phase.FAILED,
}
_SERVING = frozenset({Reason.RUNNING, Reason.AWAITING_USER})
_READY = frozenset({Reason.IDLE, Reason.AWAITING_MESSAGE}) | _SERVING


def phase_of(reason: Reason) -> Phase:
    """Return the phase that a reason implies."""
    return _PHASES.get(reason, Phase.PENDING)


def conditions_of(reason: Reason, message: str, sandbox: SandboxState | None) -> list[ConditionUpdate]:
    """Return all conditions that a reason and the sandbox's state imply."""
    if reason is Reason.AWAITING_USER and sandbox is not SandboxState.RUNNING:
        worker = worker_running(_FALSE, reason, message)
    elif reason in _SERVING:
        worker = worker_running(_TRUE, reason, message)
    else:
        worker = worker_running(_FALSE, reason if reason is not Reason.SANDBOX_VANISHED else Reason.IDLE)
    match sandbox:
        case SandboxState.RUNNING:
            reachable = sandbox_ready(_TRUE, Reason.SANDBOX_RUNNING)
        case SandboxState.PAUSED:
            reachable = sandbox_ready(_TRUE, Reason.SANDBOX_PAUSED)
        case SandboxState.CREATING:
            reachable = sandbox_ready(_FALSE, Reason.PROVISIONING)
        case SandboxState.LOST:
            reachable = sandbox_ready(_FALSE, Reason.SANDBOX_VANISHED)
        case None:
            reachable = sandbox_ready(_FALSE, Reason.NO_SANDBOX)
    overall = ready(reason, message) if reason in _READY else not_ready(reason, message)
    return [overall, reachable, worker]
