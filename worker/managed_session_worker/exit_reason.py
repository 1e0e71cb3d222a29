"""Why a claim ended: every reason, what it means, and what to do about it.

The worker, the operator and the documentation (`docs/conditions.md` is generated from it) use this list.
"""

from enum import StrEnum

_NONE = "None."
_PASSES = "None; resolves automatically."


class Writer(StrEnum):
    """Who sets a reason: the supervisor in the exit record, or the operator if there is no record."""

    WORKER = "worker"
    OPERATOR = "operator"
    EITHER = "worker or operator"


class ExitReason(StrEnum):
    """The `reason` of an exit record, and `status.work.exitReason` of a resource.

    Attributes:
        writer: Who sets it.
        meaning: What has happened.
        remedy: What to do about it.
        gives_lease_back: Whether the worker has given its lease back, or never had one. After any other
            reason the lease lapses, and what the worker's unfinished calls have started is killed.
    """

    writer: Writer
    meaning: str
    remedy: str
    gives_lease_back: bool

    def __new__(
        cls,
        value: str,
        writer: Writer,
        meaning: str,
        remedy: str,
        gives_lease_back: bool = False,
    ) -> "ExitReason":
        """Make a member from the values below."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.writer = writer
        member.meaning = meaning
        member.remedy = remedy
        member.gives_lease_back = gives_lease_back
        return member

    IDLE = (
        "Idle",
        Writer.WORKER,
        "The turn ended and no further message came while the worker waited: the normal end.",
        _NONE,
        True,
    )
    NO_MESSAGE = (
        "NoMessage",
        Writer.EITHER,
        "The session had no message within `attachTimeoutSeconds`; its work was stopped.",
        "None; the first message starts a worker.",
        True,
    )
    SESSION_ENDED = (
        "SessionEnded",
        Writer.EITHER,
        "The session was terminated, archived or deleted, while a worker served it or before.",
        _NONE,
        True,
    )
    STOPPED = (
        "Stopped",
        Writer.WORKER,
        "The work item was stopped from outside.",
        "None if you stopped it. Otherwise look for another program that uses the environment key.",
        True,
    )
    LEASE_LOST = (
        "LeaseLost",
        Writer.WORKER,
        "Another worker holds the lease, or it lapsed because heartbeats did not get through.",
        "Check that `spec.sandbox.network` allows `api.anthropic.com`, and that no other worker runs.",
    )
    CREDENTIAL_REJECTED = (
        "CredentialRejected",
        Writer.WORKER,
        "Anthropic refused the session token.",
        "None; the work is offered again with a new token.",
    )
    RESULT_REFUSED = (
        "ResultRefused",
        Writer.WORKER,
        "Anthropic refused a tool result that the session waits for; the work is offered again.",
        "None at first. If it recurs, see `worker.log`, and send the session `user.interrupt`.",
    )
    SUPERSEDED = (
        "Superseded",
        Writer.WORKER,
        "A newer claim took over; what this worker's unfinished calls had started was killed first.",
        _PASSES,
    )
    KILLED = (
        "Killed",
        Writer.WORKER,
        "The worker was killed: by a signal, by the operator, or with its supervisor.",
        "None at first. If it recurs, see the condition `ToolCallFatal` and the sandbox's memory use.",
    )
    THAWED = (
        "Thawed",
        Writer.WORKER,
        "The sandbox was paused until after the lease had lapsed; the worker ended when it was resumed.",
        _PASSES,
    )
    ERROR = (
        "Error",
        Writer.WORKER,
        "Something unexpected happened.",
        "See the exit record's message and `worker.log`.",
    )
    START_FAILED = (
        "StartFailed",
        Writer.EITHER,
        "The worker's process could not be prepared, or no worker reached its first heartbeat.",
        "See the message (disk full, user missing) and `worker.log`.",
    )
    NO_SESSION_TOKEN = (
        "NoSessionToken",
        Writer.OPERATOR,
        "The work came without a session token; the environment key is not given to sandboxes.",
        "Use an environment that issues session tokens, or see docs/security.md to allow the key.",
    )
    RELEASED = (
        "Released",
        Writer.OPERATOR,
        "The worker ended and gave its work back before the operator could read why.",
        _NONE,
        True,
    )
    SANDBOX_PAUSED = (
        "SandboxPaused",
        Writer.OPERATOR,
        "The sandbox was found paused after the worker's lease had lapsed; the worker ends at the resume.",
        _PASSES,
    )
    SANDBOX_VANISHED = (
        "SandboxVanished",
        Writer.OPERATOR,
        "E2B does not know the sandbox any more, so its worker is gone too.",
        "See the condition `WorkspaceLost`.",
    )
    SUSPENDED = (
        "Suspended",
        Writer.OPERATOR,
        "`spec.lifecycle.suspend` was set; the worker was killed.",
        "Set it to false to serve the session again.",
    )
    TURN_TOO_LONG = (
        "TurnTooLong",
        Writer.OPERATOR,
        "The turn lasted longer than its class's `maxTurnSeconds`; the worker was killed.",
        "Send the session `user.interrupt` with a Claude API key, or raise the class's limit.",
    )
    TOKEN_MISSING = (
        "TokenMissing",
        Writer.OPERATOR,
        "The session token's Secret was gone before the work was acknowledged; the queue offers it again.",
        "None. Do not delete these Secrets yourself.",
    )
    TOKEN_LOST = (
        "TokenLost",
        Writer.OPERATOR,
        "The session token's Secret was gone before the worker had started; the work was stopped.",
        "Send the session another message, or `user.interrupt` if it does not accept one.",
    )
    WORK_LOST = (
        "WorkLost",
        Writer.OPERATOR,
        "The work was stopped or taken by someone else before it could be acknowledged.",
        "Send the session another message, or `user.interrupt` if it does not accept one.",
    )
    WORKER_VANISHED = (
        "WorkerVanished",
        Writer.OPERATOR,
        "The sandbox's supervisor does not know the claim.",
        _PASSES,
    )

    @classmethod
    def named(cls, name: object) -> "ExitReason | None":
        """Return the reason of this name; None if this version does not know it."""
        return _BY_NAME.get(str(name))


_BY_NAME = {str(reason): reason for reason in ExitReason}


def lease_given_back(name: object) -> bool:
    """Return whether a claim that ended for this reason left no lease. False for an unknown reason."""
    reason = ExitReason.named(name)
    return reason is not None and reason.gives_lease_back
