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
    HOOK_FAILED = "HookFailed"
    """A hook of the policy failed the last time. The condition exists only while it is so, as True."""
    SETUP_FAILED = "SetupFailed"
    """A changed setup could not be done again in a sandbox that has had one, and the session goes on. Exists
    only while it is so, as True."""
    OUTPUTS_FAILED = "OutputsFailed"
    """Files of the agent's outputs folder could not be copied the last time. Exists only while it is so, as
    True."""
    MEMORY_STORE_FAILED = "MemoryStoreFailed"
    """A memory store of the session could not be mounted or synced. Exists only while it is so, as True."""
    POLICY_APPLIED = "PolicyApplied"
    """The session's class applies in full. The condition exists only while it does not, as False."""
    SECRETS_APPLIED = "SecretsApplied"
    """The running sandbox has the current values of its `secrets`, and may reach their hosts. The condition
    exists only while that is not so, as False."""
    SNAPSHOT_FAILED = "SnapshotFailed"
    """The newest snapshot or restore failed. The condition exists only while that is so, as True."""


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
    PREPARING = "Preparing"
    PREPARATION_FAILED = "PreparationFailed"
    REFERENCE_INVALID = "ReferenceInvalid"
    SETUP_FAILED = "SetupFailed"
    HOOK_FAILED = "HookFailed"
    OUTPUTS_FAILED = "OutputsFailed"
    MOUNT_FAILED = "MountFailed"
    VOLUME_UNAVAILABLE = "VolumeUnavailable"
    SKILL_MISSING = "SkillMissing"
    SECRET_HOST_DENIED = "SecretHostDenied"  # noqa: S105 - a reason, not a secret
    MEMORY_STORE_FAILED = "MemoryStoreFailed"
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
    RETRYING = "Retrying"
    API_KEY_REJECTED = "APIKeyRejected"
    SESSION_INTERRUPTED = "SessionInterrupted"
    SESSION_ENDED = "SessionEnded"
    DUPLICATE_SESSION = "DuplicateSession"
    ENVIRONMENT_MISMATCH = "EnvironmentMismatch"
    CLEANUP_BLOCKED = "CleanupBlocked"
    KUBERNETES_CALL_FAILED = "KubernetesCallFailed"
    ENVIRONMENT_SHARED = "EnvironmentShared"
    WEBHOOK_SILENT = "WebhookSilent"
    CLAIMED = "Claimed"
    SANDBOX_CREATED = "SandboxCreated"
    SANDBOX_RESUMED = "SandboxResumed"
    SANDBOX_ROLLED_OVER = "SandboxRolledOver"
    SANDBOX_KILLED = "SandboxKilled"
    SANDBOX_ACCESSED = "SandboxAccessed"
    SNAPSHOT_TAKEN = "SnapshotTaken"
    SNAPSHOT_FAILED = "SnapshotFailed"
    SNAPSHOT_NOT_FOUND = "SnapshotNotFound"
    SNAPSHOT_RETAINED = "SnapshotRetained"
    SNAPSHOT_IN_USE = "SnapshotInUse"
    SANDBOX_RESTORED = "SandboxRestored"
    WORKER_STARTED = "WorkerStarted"
    SERVING_LATE_MESSAGE = "ServingLateMessage"
    WORKER_FINISHED = "WorkerFinished"


PASSING_REASONS = frozenset(
    {
        Reason.PROVISIONING,
        Reason.PREPARING,
        Reason.STARTING_WORKER,
        Reason.AWAITING_CLAIM,
        Reason.AWAITING_LEASE,
        Reason.AWAITING_CAPACITY,
        Reason.RETRYING,
    }
)
"""Reasons of a session that is not ready, but will most likely become ready by itself."""
