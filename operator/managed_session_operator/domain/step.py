"""Defines the steps that the operator can take for a resource."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from managed_session_api.conditions import Reason


class Step(Enum):
    """What the reconciler can do for a resource."""

    FINALIZE = auto()
    """Stop a deleted resource's work, kill its sandbox, delete its token and remove the finalizer."""
    REFUSE = auto()
    """Report why the resource is not served (`Decision.reason`), and do nothing else."""
    TAKE_OWNERSHIP = auto()
    """Set the environment and the finalizer: the queue offered the session's work, so the session is ours."""
    VERIFY_OWNERSHIP = auto()
    """Ask Anthropic whether the session is ours."""
    CONFIRM_END = auto()
    """Ask Anthropic whether the session has ended."""
    DELETE = auto()
    """Delete the resource, because its time to live has passed."""
    REJECT_OFFER = auto()
    """Take the offer off the queue without serving it, because its session has ended."""
    AWAIT_MESSAGE = auto()
    """Find out whether the offered session has had a message, before anything is paid for."""
    RELEASE_UNUSED = auto()
    """Take the offer off the queue, because no message came in time."""
    CLAIM = auto()
    """Record the offer as the claim to serve."""
    REFRESH_TOKEN = auto()
    """Keep the token of a newer offer of the same claim, whose worker has sent no heartbeat yet."""
    AWAIT_SLOT = auto()
    """Report the queue position. The session's work stays in the queue until a slot is free."""
    PROVISION = auto()
    """Create or resume the sandbox."""
    PREPARE = auto()
    """Run inside the sandbox what the policy asks for, before a worker is started."""
    CLEAN_SANDBOX = auto()
    """End the processes of another session, from whose snapshot the sandbox was created."""
    TAKE_SNAPSHOT = auto()
    """Take a snapshot, at the end of a turn or because it was asked for."""
    RETAIN = auto()
    """Save the files of a deleted session in a snapshot."""
    KILL_REPLACED = auto()
    """Kill the sandbox that a restore has replaced."""
    UNDO_RESTORE = auto()
    """Use the sandbox again that a restore was to replace."""
    ACKNOWLEDGE = auto()
    """Take the item off the queue, now that the sandbox is ready."""
    START_WORKER = auto()
    """Start the claim's worker."""
    STOP_WORKER = auto()
    """Stop a worker that has sent no heartbeat in time, so that it is started again."""
    DROP_OFFER = auto()
    """Forget an offer of work that a worker already serves. It was sent before the acknowledgement."""
    RECORD_HEARTBEAT = auto()
    """Record that the worker has taken its lease, and delete the token."""
    RECORD_LATE_SERVING = auto()
    """Record that the worker serves a message that arrived while its item was being stopped."""
    RECORD_USER_WAIT = auto()
    """Record that the worker has begun, or ceased, to wait for the session's user."""
    PAUSE_WAIT = auto()
    """Pause the sandbox of a worker that waits for the session's user, and free its slot."""
    CHECK_ANSWER = auto()
    """Find out whether the session's user has answered, while the sandbox is paused."""
    RESUME_WAIT = auto()
    """Resume the sandbox whose worker has the answer that it waited for."""
    REATTACH = auto()
    """Open the event stream of a running worker again."""
    RECORD_VANISHED = auto()
    """Record that the sandbox has vanished."""
    EXTEND = auto()
    """Restart the countdown of a running sandbox."""
    ROLL_OVER = auto()
    """Pause and resume the sandbox under its worker, before E2B's longest running time ends."""
    FINISH = auto()
    """Pause the sandbox of a worker that has ended, and record the turn."""
    SUSPEND = auto()
    """Stop the worker and pause the sandbox, because the spec asks for it or the session has ended."""
    PAUSE = auto()
    """Pause a sandbox that nothing needs."""
    RESOLVE_CREATE = auto()
    """Find out what became of a create whose sandbox nothing needs any more."""
    TRY_AGAIN = auto()
    """Forget what was tried in vain, because somebody asked for it."""
    INSPECT_SESSION = auto()
    """Read the session's newest events, because its turn may not be over."""
    RESTORE = auto()
    """Record the running worker or the sandbox again, because somebody removed the status."""
    RECOVER = auto()
    """Stop the item of a stuck session and, if an API key is configured, interrupt the session."""
    LEARN_SESSION = auto()
    """Read the session, because the choice of its class depends on it."""
    RECORD_POLICY = auto()
    """Record the policy that is in force, after the session's class or spec has changed."""
    UPDATE_NETWORK = auto()
    """Give the running sandbox the network rules that its policy has now."""
    CHECK_TURN = auto()
    """Find out whether the turn lasts longer than its class allows, and end it if so."""
    WAIT = auto()
    """Do nothing now, and report `Decision.reason`."""


@dataclass(frozen=True)
class Decision:
    """The next step. WAIT and REFUSE come with what to report and when to reconcile again."""

    step: Step
    reason: Reason | None = None
    message: str = ""
    again_after: float | None = None
    worth_writing: bool = True
    """False if the reason will pass in a moment."""
