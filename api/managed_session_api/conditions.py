"""Conditions of a ManagedSession and the reasons they give, each with what it means and its remedy.

The reasons are the vocabulary of `kubectl get`, of Events and of the documentation
(`docs/conditions.md` is generated from here).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ConditionType(StrEnum):
    """The types in `status.conditions`."""

    READY = "Ready"
    """The session's next message would be served: True while running and while idle."""
    SANDBOX_READY = "SandboxReady"
    """The sandbox exists and answers, or is paused and can be resumed."""
    WORKER_RUNNING = "WorkerRunning"
    """A worker that has heartbeated acts for the session at this moment."""
    WORKSPACE_LOST = "WorkspaceLost"
    """Files of earlier turns are gone: True since the sandbox that held them vanished or was rolled back."""


class ConditionStatus(StrEnum):
    """The values of a condition's `status`."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Phase(StrEnum):
    """`status.phase`: one word for people. Derived; nothing decides on it."""

    PENDING = "Pending"
    PROVISIONING = "Provisioning"
    RUNNING = "Running"
    IDLE = "Idle"
    SUSPENDED = "Suspended"
    TERMINATING = "Terminating"
    FAILED = "Failed"


@dataclass(frozen=True)
class ReasonDoc:
    """What a reason means and what a person has to do about it."""

    meaning: str
    remedy: str


class Reason(StrEnum):
    """`reason` of a condition or an Event."""

    IDLE = "Idle"
    RUNNING = "Running"
    PROVISIONING = "Provisioning"
    AWAITING_CLAIM = "AwaitingClaim"
    AWAITING_MESSAGE = "AwaitingMessage"
    AWAITING_LEASE = "AwaitingLease"
    AWAITING_CAPACITY = "AwaitingCapacity"
    STARTING_WORKER = "StartingWorker"
    SUSPENDED = "Suspended"
    NO_SANDBOX = "NoSandbox"
    SANDBOX_RUNNING = "SandboxRunning"
    SANDBOX_PAUSED = "SandboxPaused"
    SANDBOX_VANISHED = "SandboxVanished"
    WORKSPACE_ROLLED_BACK = "WorkspaceRolledBack"
    SANDBOX_CREATE_FAILED = "SandboxCreateFailed"
    SANDBOX_UNREACHABLE = "SandboxUnreachable"
    SANDBOX_DISK_FULL = "SandboxDiskFull"
    PAUSE_FAILED = "PauseFailed"
    TEMPLATE_NOT_FOUND = "TemplateNotFound"
    SANDBOX_CREDENTIAL_REJECTED = "SandboxCredentialRejected"
    SANDBOX_REQUEST_REJECTED = "SandboxRequestRejected"
    SANDBOX_QUOTA_EXCEEDED = "SandboxQuotaExceeded"
    ENVIRONMENT_CREDENTIAL_REJECTED = "EnvironmentCredentialRejected"
    ENVIRONMENT_UNREACHABLE = "EnvironmentUnreachable"
    ENVIRONMENT_UNAVAILABLE = "EnvironmentUnavailable"
    CREDENTIAL_MISSING = "CredentialMissing"
    NO_SESSION_TOKEN = "NoSessionToken"  # noqa: S105 - a reason, not a secret
    WORKER_START_FAILED = "WorkerStartFailed"
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
    KUBERNETES_REFUSED = "KubernetesRefused"
    ENVIRONMENT_SHARED = "EnvironmentShared"
    CLAIMED = "Claimed"
    SANDBOX_CREATED = "SandboxCreated"
    SANDBOX_RESUMED = "SandboxResumed"
    SANDBOX_ROLLED_OVER = "SandboxRolledOver"
    SANDBOX_KILLED = "SandboxKilled"
    WORKER_STARTED = "WorkerStarted"
    WORKER_FINISHED = "WorkerFinished"


_WAIT = "Nothing: it passes by itself."

REASONS: dict[Reason, ReasonDoc] = {
    Reason.IDLE: ReasonDoc("No work is queued; the next message will be served.", _WAIT),
    Reason.RUNNING: ReasonDoc("A worker acts for the session.", _WAIT),
    Reason.PROVISIONING: ReasonDoc("The sandbox is being created or resumed.", _WAIT),
    Reason.AWAITING_CLAIM: ReasonDoc(
        "A message was announced; its work has not been offered by the queue yet.",
        "If it stays: is another worker or installation polling the same environment?",
    ),
    Reason.AWAITING_MESSAGE: ReasonDoc("The session was created and has had no message yet.", _WAIT),
    Reason.AWAITING_LEASE: ReasonDoc(
        "The worker ended without giving its lease back; the queue offers the work again when the lease "
        "lapses (at most five minutes).",
        "Wait; `worker.log` in the sandbox says why the worker ended.",
    ),
    Reason.AWAITING_CAPACITY: ReasonDoc(
        "Work is queued and there is no place for another running sandbox: all are taken, E2B allows fewer "
        "at the moment, or E2B's creation rate is reached. The message says the position in the line; the "
        "oldest is served first, and work waits in Anthropic's queue meanwhile.",
        "Nothing: it is served when its turn comes. If it is common: raise "
        "MANAGED_SESSIONS_MAX_ACTIVE_SANDBOXES (and the E2B plan), or lower `maxIdleSeconds`, which keeps "
        "places taken.",
    ),
    Reason.STARTING_WORKER: ReasonDoc("The work is acknowledged and its worker is starting.", _WAIT),
    Reason.SUSPENDED: ReasonDoc(
        "`spec.lifecycle.suspend` is true: the sandbox is paused and nothing is served.",
        "Set it to false to serve the session again.",
    ),
    Reason.NO_SANDBOX: ReasonDoc("The session has no sandbox yet.", _WAIT),
    Reason.SANDBOX_RUNNING: ReasonDoc("The sandbox is running (and billed).", _WAIT),
    Reason.SANDBOX_PAUSED: ReasonDoc("The sandbox is paused; its files and memory are kept.", _WAIT),
    Reason.SANDBOX_VANISHED: ReasonDoc(
        "E2B no longer knows the sandbox that held the session's files.",
        "Files of earlier turns are lost. With `onSandboxLost: Recreate` the next turn starts empty; with "
        "`Fail` delete the resource when you have seen it.",
    ),
    Reason.WORKSPACE_ROLLED_BACK: ReasonDoc(
        "A pause failed in E2B, which went back to the state that an earlier pause had saved.",
        "What the session wrote since the time in the message is lost; earlier files are there. Ask the "
        "agent to do that part again.",
    ),
    Reason.SANDBOX_CREATE_FAILED: ReasonDoc(
        "E2B could not create or resume the sandbox; it is tried again.",
        "If it stays: see E2B's status page and the message.",
    ),
    Reason.SANDBOX_UNREACHABLE: ReasonDoc(
        "The sandbox exists and its commands cannot be reached; it is tried again.",
        "If it stays: see the message; deleting the resource starts afresh.",
    ),
    Reason.SANDBOX_DISK_FULL: ReasonDoc(
        "The agent has filled the sandbox's disk and the room kept for us, so that no worker can be started; "
        "it is tried again.",
        "Remove files in the sandbox with E2B's tools; deleting the resource starts afresh.",
    ),
    Reason.PAUSE_FAILED: ReasonDoc(
        "The sandbox could not be paused; it is tried again, and E2B's own timeout bounds the cost.", _WAIT
    ),
    Reason.TEMPLATE_NOT_FOUND: ReasonDoc(
        "The E2B team of the API key has no such template.",
        "Run `managed-sessions template build` with that key, or correct `spec.sandbox.template` or "
        "MANAGED_SESSIONS_TEMPLATE.",
    ),
    Reason.SANDBOX_CREDENTIAL_REJECTED: ReasonDoc(
        "E2B refused the API key.", "Put a valid key into the operator's credential `e2b-api-key`."
    ),
    Reason.SANDBOX_REQUEST_REJECTED: ReasonDoc(
        "E2B refused the request as invalid.", "Correct the field of `spec.sandbox` that the message names."
    ),
    Reason.SANDBOX_QUOTA_EXCEEDED: ReasonDoc(
        "E2B refused to run this session's sandbox, because its limit of running sandboxes or of its rate is "
        "reached. The session keeps its position in the line; others wait as `AwaitingCapacity`.",
        "Nothing at first: it is tried again, one session at a time. If it is common: lower "
        "MANAGED_SESSIONS_MAX_ACTIVE_SANDBOXES below what the plan leaves to this installation, or raise the "
        "plan.",
    ),
    Reason.ENVIRONMENT_CREDENTIAL_REJECTED: ReasonDoc(
        "Anthropic refused the environment key.",
        "Generate a new key for the environment in the Claude Console and put it into "
        "`anthropic-environment-key`.",
    ),
    Reason.ENVIRONMENT_UNREACHABLE: ReasonDoc(
        "Anthropic's API did not answer; it is tried again.", "If it stays: egress from the operator's pod."
    ),
    Reason.ENVIRONMENT_UNAVAILABLE: ReasonDoc(
        "The environment's work queue answers every poll with 404, or refuses the polls: the environment may "
        "have been archived or deleted. Also an Event of the operator's Lease.",
        "Look at the environment in the Claude Console; put the ID of one that is served, and its key, into "
        "the operator's credentials. Sessions of an archived environment are not served any more.",
    ),
    Reason.CREDENTIAL_MISSING: ReasonDoc(
        "A credential that the operator needs is not there.", "Add the file that the message names."
    ),
    Reason.NO_SESSION_TOKEN: ReasonDoc(
        "The environment issues no session token with its work.",
        "The environment key is never put into a sandbox by default; see docs/security.md for the opt-in.",
    ),
    Reason.WORKER_START_FAILED: ReasonDoc(
        "The worker could not be started in the sandbox; it is tried again a bounded number of times.",
        "See the message and `worker.log` in the sandbox. A session that takes no message any more needs "
        "`user.interrupt`.",
    ),
    Reason.WORK_LOST: ReasonDoc(
        "The work was stopped or taken by someone else before its worker had started.",
        "Send the session another message, or `user.interrupt` if it does not accept one.",
    ),
    Reason.WORK_STRANDED: ReasonDoc(
        "The session's work was acknowledged and no worker was started for it (by something that crashed); "
        "the queue offers it to nobody. The operator stops the item.",
        "Send the session `user.interrupt` with an API key, then the message again if it is still wanted. "
        "With the operator's optional credential `anthropic-api-key` the interrupt is sent by itself.",
    ),
    Reason.SESSION_STUCK: ReasonDoc(
        "The turn is not over, no worker lives, and no work of the session is queued: nothing would ever "
        "happen again. The message says what the session waits for.",
        "Send the session `user.interrupt` with an API key, then the message again if it is still wanted; if "
        "that has no effect, archive it. With the operator's optional credential `anthropic-api-key` the "
        "interrupt is sent by itself, at most MANAGED_SESSIONS_RECOVERY_ATTEMPTS times in a row.",
    ),
    Reason.RECOVERING: ReasonDoc(
        "The session was stuck; `user.interrupt` was sent, and its work is waited for.",
        "Nothing: it passes by itself, or becomes SessionStuck.",
    ),
    Reason.API_KEY_REJECTED: ReasonDoc(
        "Anthropic refused the API key with which a stuck session was to be interrupted.",
        "Put a valid key into the operator's credential `anthropic-api-key`, or remove it and send "
        "`user.interrupt` yourself.",
    ),
    Reason.SESSION_INTERRUPTED: ReasonDoc(
        "The operator sent `user.interrupt` to a stuck session; the turn that was stuck ended unanswered.",
        "Send the message again if it is still wanted: the operator never does.",
    ),
    Reason.SESSION_ENDED: ReasonDoc(
        "The session was terminated, archived or deleted.",
        "Nothing: the resource is removed after `ttlSecondsAfterEnd`.",
    ),
    Reason.DUPLICATE_SESSION: ReasonDoc(
        "An older resource serves the same session.", "Delete this one, or the older one."
    ),
    Reason.ENVIRONMENT_MISMATCH: ReasonDoc(
        "The resource names another environment than the installation serves.",
        "Delete it, or create it where that environment is served.",
    ),
    Reason.CLEANUP_BLOCKED: ReasonDoc(
        "The sandbox could not be killed, so the resource is kept; it is tried again.",
        "See the message. To give up, remove the finalizer managedagents.dev/sandbox by hand: the sweep "
        "kills the sandbox once E2B answers again.",
    ),
    Reason.KUBERNETES_REFUSED: ReasonDoc(
        "The API server refused or did not answer a call of the operator; it is tried again.",
        "If it stays: compare the operator's Roles with deploy/, and see the operator's log.",
    ),
    Reason.ENVIRONMENT_SHARED: ReasonDoc(
        "Another installation or worker polls the same environment, so that sessions may alternate between "
        "two sandboxes. Said by an Event of the operator's Lease and by the gauge "
        "`managed_sessions_environment_shared`, which is 0 again once the other is gone.",
        "Give each installation an environment of its own, and stop other workers of this one.",
    ),
    Reason.CLAIMED: ReasonDoc("Work of the session was claimed from the queue.", _WAIT),
    Reason.SANDBOX_CREATED: ReasonDoc("The session's sandbox was created.", _WAIT),
    Reason.SANDBOX_RESUMED: ReasonDoc("The session's sandbox was resumed.", _WAIT),
    Reason.SANDBOX_ROLLED_OVER: ReasonDoc(
        "The sandbox was paused and resumed under its worker, which goes on, before E2B's longest running "
        "time was over.",
        _WAIT,
    ),
    Reason.SANDBOX_KILLED: ReasonDoc("The session's sandbox was killed.", _WAIT),
    Reason.WORKER_STARTED: ReasonDoc("A worker started and heartbeated.", _WAIT),
    Reason.WORKER_FINISHED: ReasonDoc("The worker ended; the message gives its reason.", _WAIT),
}
