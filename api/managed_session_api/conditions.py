"""Defines the condition types, phases and reasons of both kinds.

Reasons appear in `kubectl get`, in Events and in the documentation. `reasons.py` has their meanings and
remedies; `docs/conditions.md` is generated from both modules.
"""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """The types in `status.conditions`."""

    READY = "Ready"
    """The session's next message will be served. True while the session runs and while it is idle.
    Of a class: it is in force for the sessions that it matches."""
    SANDBOX_READY = "SandboxReady"
    """The sandbox is running and reachable, or paused and ready to be resumed."""
    WORKER_RUNNING = "WorkerRunning"
    """A worker is serving the session and has sent a heartbeat."""
    WORKSPACE_LOST = "WorkspaceLost"
    """Files from earlier turns are lost, because the sandbox vanished or was rolled back."""
    WORKSPACE_RESTARTED = "WorkspaceRestarted"
    """Background processes from earlier turns are lost, because the sandbox was rebooted. Files are kept."""
    TOOL_CALL_FATAL = "ToolCallFatal"
    """A tool call of the current turn has ended its worker. It is repeated a limited number of times."""
    POLICY_APPLIED = "PolicyApplied"
    """The session's class applies in full. The condition exists only while it does not, as False."""


class ConditionStatus(StrEnum):
    """The values of a condition's `status`."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Phase(StrEnum):
    """`status.phase`: a one-word summary for people. No decision depends on it."""

    PENDING = "Pending"
    PROVISIONING = "Provisioning"
    RUNNING = "Running"
    IDLE = "Idle"
    SUSPENDED = "Suspended"
    TERMINATING = "Terminating"
    FAILED = "Failed"


class Reason(StrEnum):
    """`reason` of a condition or an Event."""

    IDLE = "Idle"
    RUNNING = "Running"
    PROVISIONING = "Provisioning"
    AWAITING_CLAIM = "AwaitingClaim"
    AWAITING_MESSAGE = "AwaitingMessage"
    AWAITING_USER = "AwaitingUser"
    AWAITING_LEASE = "AwaitingLease"
    AWAITING_CAPACITY = "AwaitingCapacity"
    BUDGET_REACHED = "BudgetReached"
    AMBIGUOUS_CLASS = "AmbiguousClass"
    LOCKED_FIELD = "LockedField"
    CLASS_CHANGED = "ClassChanged"
    TURN_TOO_LONG = "TurnTooLong"
    READY = "Ready"
    AMBIGUOUS = "Ambiguous"
    INVALID = "Invalid"
    GUARANTEES_REDUCED = "GuaranteesReduced"
    STARTING_WORKER = "StartingWorker"
    SUSPENDED = "Suspended"
    NO_SANDBOX = "NoSandbox"
    SANDBOX_RUNNING = "SandboxRunning"
    SANDBOX_PAUSED = "SandboxPaused"
    SANDBOX_VANISHED = "SandboxVanished"
    WORKSPACE_ROLLED_BACK = "WorkspaceRolledBack"
    SANDBOX_CREATE_FAILED = "SandboxCreateFailed"
    SANDBOX_RESUME_FAILED = "SandboxResumeFailed"
    SANDBOX_UNREACHABLE = "SandboxUnreachable"
    SANDBOX_DISK_FULL = "SandboxDiskFull"
    SKILL_MISSING = "SkillMissing"
    GUEST_UNRESPONSIVE = "GuestUnresponsive"
    PAUSE_FAILED = "PauseFailed"
    TEMPLATE_NOT_FOUND = "TemplateNotFound"
    SANDBOX_CREDENTIAL_REJECTED = "SandboxCredentialRejected"
    SANDBOX_REQUEST_REJECTED = "SandboxRequestRejected"
    SANDBOX_QUOTA_EXCEEDED = "SandboxQuotaExceeded"
    SANDBOX_RATE_LIMITED = "SandboxRateLimited"
    ENVIRONMENT_CREDENTIAL_REJECTED = "EnvironmentCredentialRejected"
    ENVIRONMENT_UNREACHABLE = "EnvironmentUnreachable"
    ENVIRONMENT_RATE_LIMITED = "EnvironmentRateLimited"
    ENVIRONMENT_REQUEST_REJECTED = "EnvironmentRequestRejected"
    ENVIRONMENT_UNAVAILABLE = "EnvironmentUnavailable"
    CREDENTIAL_MISSING = "CredentialMissing"
    NO_SESSION_TOKEN = "NoSessionToken"  # noqa: S105 - a reason, not a secret
    WORKER_START_FAILED = "WorkerStartFailed"
    WORKER_ENDED_IN_CALL = "WorkerEndedInCall"
    TOOL_CALL_GIVEN_UP = "ToolCallGivenUp"
    WORK_LOST = "WorkLost"
    WORK_STRANDED = "WorkStranded"
    SESSION_STUCK = "SessionStuck"
    RECOVERING = "Recovering"
    API_KEY_REJECTED = "APIKeyRejected"
    SESSION_INTERRUPTED = "SessionInterrupted"
    SESSION_ENDED = "SessionEnded"
    DUPLICATE_SESSION = "DuplicateSession"
    ENVIRONMENT_MISMATCH = "EnvironmentMismatch"
    CLEANUP_BLOCKED = "CleanupBlocked"
    KUBERNETES_CALL_FAILED = "KubernetesCallFailed"
    ENVIRONMENT_SHARED = "EnvironmentShared"
    CLAIMED = "Claimed"
    SANDBOX_CREATED = "SandboxCreated"
    SANDBOX_RESUMED = "SandboxResumed"
    SANDBOX_ROLLED_OVER = "SandboxRolledOver"
    SANDBOX_KILLED = "SandboxKilled"
    WORKER_STARTED = "WorkerStarted"
    SERVING_LATE_MESSAGE = "ServingLateMessage"
    WORKER_FINISHED = "WorkerFinished"


PASSING_REASONS = frozenset(
    {
        Reason.PROVISIONING,
        Reason.STARTING_WORKER,
        Reason.AWAITING_CLAIM,
        Reason.AWAITING_LEASE,
        Reason.AWAITING_CAPACITY,
    }
)
"""Reasons of a session that is not ready, but will most likely become ready by itself."""
