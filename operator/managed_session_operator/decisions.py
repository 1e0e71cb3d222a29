"""What to do next for one resource: a pure function of the resource and of what is known around it.

Levels, not edges: the answer depends on what is, never on what happened. Every step may be repeated,
reordered or cut off; the next look at the resource takes it from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto

from managed_session_api import names
from managed_session_api.conditions import ConditionType, Reason
from managed_session_api.events import END_TYPES, RUN_STARTED
from managed_session_api.resource import EffectiveStatus, ManagedSession, OnSandboxLost, SandboxState

from managed_session_operator.clients.worker_runs import WorkerRun
from managed_session_operator.offers import Offer
from managed_session_operator.stuck import Remedy, Sightings, assess
from managed_session_operator.work_list import WorkItem


class Step(Enum):
    """What the reconciler can do for a resource."""

    FINALIZE = auto()
    """Stop its work, kill its sandbox, remove its token and let it go."""
    REFUSE = auto()
    """Say why the resource is not served (`Decision.reason`), and do nothing else."""
    ADOPT = auto()
    """Its session's work was offered, so it is ours: set the environment and the finalizer."""
    PROVE = auto()
    """Ask Anthropic whether the session is ours."""
    CONFIRM_END = auto()
    """The session is said to have ended: ask Anthropic."""
    DELETE = auto()
    """Ask for the resource's own deletion (its time is over)."""
    REJECT_OFFER = auto()
    """Take the offer off the queue without serving it: its session has ended."""
    AWAIT_MESSAGE = auto()
    """An offer of a session that may have had no message: find out before anything is paid for."""
    RELEASE_UNUSED = auto()
    """No message came in time: take the offer off the queue."""
    CLAIM = auto()
    """Write the offer down as the claim that is served."""
    REFRESH_TOKEN = auto()
    """A newer offer of the claim that is not acknowledged yet: keep its token."""
    AWAIT_PLACE = auto()
    """Its work is left in the queue until there is a place: say where it stands in the line."""
    PROVISION = auto()
    """Have the sandbox created or resumed."""
    ACKNOWLEDGE = auto()
    """The sandbox is ready: take the item off the queue."""
    START_WORKER = auto()
    """Start the claim's worker."""
    STOP_WORKER = auto()
    """The worker has not heartbeated in time: end it, so that it is started again."""
    DROP_OFFER = auto()
    """An offer that was on its way while the same work was acknowledged: there is nothing to do for it."""
    RECORD_HEARTBEAT = auto()
    """The worker has taken its lease: write it down and remove the token."""
    REATTACH = auto()
    """A worker was started and nobody listens to its events: look and take them up again."""
    NOTE_VANISHED = auto()
    """The sandbox is gone: say so."""
    EXTEND = auto()
    """Restart the countdown of a running sandbox."""
    ROLL_OVER = auto()
    """Pause and resume the sandbox under its worker, before E2B's longest running time."""
    FINISH = auto()
    """The worker has ended: pause the sandbox and write the turn down."""
    SUSPEND = auto()
    """Stop the worker and pause the sandbox, because the spec says so."""
    PAUSE = auto()
    """Pause a sandbox that nothing needs."""
    RESOLVE_CREATE = auto()
    """A create was begun and nothing needs it any more: find out what became of it."""
    LOOK = auto()
    """The turn is not known to be over: read the session's newest events."""
    RESTORE = auto()
    """The status was wiped: write down again what is there."""
    RECOVER = auto()
    """The session is stuck: stop its item and, where an API key is configured, interrupt it."""
    WAIT = auto()
    """Nothing to do now; say how it stands (`Decision.reason`)."""


@dataclass(frozen=True)
class Decision:
    """The next step; for WAIT and REFUSE also how it stands and when to look again."""

    step: Step
    reason: Reason | None = None
    message: str = ""
    again_after: float | None = None
    worth_writing: bool = True
    """False for what is over in a moment."""


@dataclass(frozen=True)
class Surroundings:
    """What is known around a resource when it is looked at.

    Attributes:
        now: the time.
        environment_id: the environment that this installation serves.
        policy: the policy in force.
        offer: work offered and not yet written into the resource.
        start_overdue_at: when the started worker should have heartbeated.
        run: this process's knowledge of the worker of `status.work.claim`.
        connected: this process has created, connected or seen the recorded sandbox running.
        extend_at: when the sandbox's countdown is to be restarted; None when it isn't running.
        roll_over_at: when a new running period has to begin; None when the sandbox isn't running.
        serving_name: the resource that serves the session (itself, unless an older one exists).
        end_checked: the ID of the end event that Anthropic was asked about already.
        hint_seen_at: since when this process knows of the announced work.
        hint_expired: the announced work was waited for long enough.
        hint_displaced: claimed work of another session needs the place that is held for the announced work.
        queued: the session's work is in the queue and there is no place to serve it in.
        message_known: the session is known to have had a message.
        message_awaited_since: since when its first message has been waited for, however often it was offered.
        end_check_due: the slow check asks whether the session has ended.
        running_unexpectedly: a sweep found the sandbox running although nothing needs it.
        missing: a sweep found that E2B does not know the recorded sandbox any more.
        wiped: the status names no sandbox, and there is a worker or a sandbox that it must have named.
        sightings: what was seen of a session that nobody serves.
        queue_trouble: what the environment's queue says while it serves nobody.
    """

    now: datetime
    environment_id: str
    policy: EffectiveStatus
    offer: Offer | None = None
    run: WorkerRun | None = None
    connected: bool = False
    extend_at: datetime | None = None
    roll_over_at: datetime | None = None
    serving_name: str | None = None
    end_checked: str | None = None
    hint_seen_at: datetime | None = None
    hint_expired: bool = False
    hint_displaced: bool = False
    queued: bool = False
    message_known: bool = False
    message_awaited_since: datetime | None = None
    end_check_due: bool = False
    running_unexpectedly: bool = False
    missing: bool = False
    wiped: bool = False
    queue_trouble: str | None = None
    start_overdue_at: datetime | None = None
    sightings: Sightings = field(default_factory=Sightings)


LEASE_SECONDS = 300
"""Anthropic's default lease of a work item: an abandoned one is offered again after so long."""

_LEAST_WAIT_SECONDS = 0.1
_CLAIM_USUALLY_WITHIN = timedelta(seconds=2)

GIVEN_BACK = frozenset({"Idle", "NoMessage", "SessionEnded", "Stopped", "Released"})
"""Exit reasons after which the work item is stopped, so that nothing needs to lapse."""

_GIVEN_UP = {
    "StartFailed": Reason.WORKER_START_FAILED,
    "NoSessionToken": Reason.NO_SESSION_TOKEN,
    "TokenLost": Reason.WORK_LOST,
    "WorkLost": Reason.WORK_LOST,
}
"""Why a session whose claim ended without a worker is not Ready, by exit reason."""


def lease_lives(item: WorkItem, now: datetime) -> bool:
    """Whether the item is still its worker's, so that a worker that was only frozen may go on, or stop."""
    beat = item.latest_heartbeat_at
    unlapsed = beat is None or now < beat + timedelta(seconds=LEASE_SECONDS)
    return item.state in ("active", "stopping") and unlapsed


def has_hint(resource: ManagedSession) -> bool:
    """Whether a run was announced that no finished turn has answered and no later look has settled."""
    event, status = resource.status.last_event, resource.status
    settled = (status.work.finished_at, status.recovery.checked_at)
    return (
        event is not None
        and event.type == RUN_STARTED
        and all(at is None or event.created_at > at for at in settled)
    )


def claim_active(resource: ManagedSession) -> bool:
    """Whether a claim is being served."""
    work = resource.status.work
    return work.claim is not None and work.finished_at is None


def decide(resource: ManagedSession, around: Surroundings) -> Decision:
    """The next step for `resource`."""
    if resource.metadata.deletion_timestamp is not None:
        held = names.FINALIZER in resource.metadata.finalizers
        return Decision(Step.FINALIZE) if held else Decision(Step.WAIT)
    return (
        _identity(resource, around)
        or (Decision(Step.RESTORE) if around.wiped else None)
        or _end(resource, around)
        or _stopped(resource, around)
        or _offer(resource, around)
        or (_serve(resource, around) if claim_active(resource) else _rest(resource, around))
    )


def _identity(resource: ManagedSession, around: Surroundings) -> Decision | None:
    environment_id = resource.spec.environment_id
    if environment_id is not None and environment_id != around.environment_id:
        message = f"this installation serves {around.environment_id}, the resource names {environment_id}"
        return Decision(Step.REFUSE, Reason.ENVIRONMENT_MISMATCH, message)
    if around.serving_name not in (None, resource.metadata.name):
        message = f"{around.serving_name} serves session {resource.spec.session_id}"
        return Decision(Step.REFUSE, Reason.DUPLICATE_SESSION, message)
    if environment_id is None or names.FINALIZER not in resource.metadata.finalizers:
        return Decision(Step.ADOPT if around.offer is not None else Step.PROVE)
    return None


def _end(resource: ManagedSession, around: Surroundings) -> Decision | None:
    status = resource.status
    event = status.last_event
    if status.ended_at is None:
        told = event is not None and event.type in END_TYPES and around.end_checked != event.id
        return Decision(Step.CONFIRM_END) if told or around.end_check_due else None
    if around.offer is not None:
        return Decision(Step.REJECT_OFFER)
    if claim_active(resource) and around.run is not None and around.run.record is not None:
        return Decision(Step.FINISH)
    if status.sandbox.state is SandboxState.CREATING:
        return Decision(Step.RESOLVE_CREATE)
    if around.connected or status.sandbox.state is SandboxState.RUNNING:
        return Decision(Step.SUSPEND)
    due = status.ended_at + timedelta(seconds=around.policy.ttl_seconds_after_end)
    if around.now >= due:
        return Decision(Step.DELETE)
    message = f"the session has ended; removed after {due:%Y-%m-%dT%H:%M:%SZ}"
    return Decision(Step.WAIT, Reason.SESSION_ENDED, message, (due - around.now).total_seconds())


def _stopped(resource: ManagedSession, around: Surroundings) -> Decision | None:
    """Sessions that are not served at the moment: suspended, or failed by policy."""
    sandbox = resource.status.sandbox
    if around.missing and sandbox.id is not None:
        return Decision(Step.NOTE_VANISHED)
    if claim_active(resource) and around.run is not None and around.run.record is not None:
        return Decision(Step.FINISH)
    if resource.spec.lifecycle.suspend:
        if sandbox.state is SandboxState.CREATING:
            return Decision(Step.RESOLVE_CREATE)
        if around.connected or sandbox.state is SandboxState.RUNNING:
            return Decision(Step.SUSPEND)
        return Decision(Step.WAIT, Reason.SUSPENDED)
    if sandbox.state is SandboxState.LOST and around.policy.on_sandbox_lost is OnSandboxLost.FAIL:
        return Decision(Step.WAIT, Reason.SANDBOX_VANISHED, "the sandbox vanished and onSandboxLost is Fail")
    return None


def _offer(resource: ManagedSession, around: Surroundings) -> Decision | None:
    offer, work = around.offer, resource.status.work
    if offer is None:
        return None
    if claim_active(resource):
        if around.run is not None and around.run.record is not None:
            return Decision(Step.FINISH)
        if work.acknowledged_at is None:
            return Decision(Step.REFRESH_TOKEN)
        late = offer.offered_at <= work.acknowledged_at
        return Decision(Step.DROP_OFFER if late else Step.CLAIM)
    if around.message_known or has_hint(resource):
        return Decision(Step.CLAIM)
    since = around.message_awaited_since or offer.offered_at
    if around.now >= since + timedelta(seconds=around.policy.attach_timeout_seconds):
        return Decision(Step.RELEASE_UNUSED)
    return Decision(Step.AWAIT_MESSAGE)


def _serve(resource: ManagedSession, around: Surroundings) -> Decision:
    """A claim is active and nothing newer was offered."""
    work, run = resource.status.work, around.run
    if run is not None and run.record is not None:
        return Decision(Step.FINISH)
    if around.connected and around.extend_at is not None and around.now >= around.extend_at:
        return Decision(Step.EXTEND)
    if work.acknowledged_at is None:
        return Decision(Step.ACKNOWLEDGE if around.connected else Step.PROVISION)
    if work.first_heartbeat_at is not None:
        if run is None or not run.live:
            return Decision(Step.REATTACH)
    elif run is None or not run.live:
        return Decision(Step.START_WORKER if around.connected else Step.PROVISION)
    elif run.heartbeat:
        return Decision(Step.RECORD_HEARTBEAT)
    return _listen(resource, around)


def _listen(resource: ManagedSession, around: Surroundings) -> Decision:
    """The worker was started and its events are listened to."""
    started = resource.status.work.first_heartbeat_at is not None
    if started and around.roll_over_at is not None and around.now >= around.roll_over_at:
        return Decision(Step.ROLL_OVER)
    if not started and around.start_overdue_at is not None and around.now >= around.start_overdue_at:
        return Decision(Step.STOP_WORKER)
    due = around.extend_at if started else (around.start_overdue_at or around.extend_at)
    if started and due is not None and around.roll_over_at is not None:
        due = min(due, around.roll_over_at)
    wait = max(_LEAST_WAIT_SECONDS, (due - around.now).total_seconds()) if due is not None else None
    return Decision(Step.WAIT, Reason.RUNNING if started else Reason.STARTING_WORKER, again_after=wait)


def _prepare(around: Surroundings) -> Decision:
    """Work was announced: have the sandbox ready when it is offered."""
    if not around.connected:
        return Decision(Step.PROVISION)
    if around.hint_seen_at is not None and around.now < around.hint_seen_at + _CLAIM_USUALLY_WITHIN:
        return Decision(
            Step.WAIT,
            Reason.AWAITING_CLAIM,
            again_after=_CLAIM_USUALLY_WITHIN.total_seconds(),
            worth_writing=False,
        )
    wait = float(around.policy.attach_timeout_seconds)
    return Decision(Step.WAIT, Reason.AWAITING_CLAIM, "waiting for the announced work", wait)


def _rest(resource: ManagedSession, around: Surroundings) -> Decision:
    """No claim is active and none was offered."""
    sandbox = resource.status.sandbox
    hinted = has_hint(resource) and not around.hint_expired and not around.hint_displaced
    if hinted and around.queue_trouble is None:
        return _prepare(around)
    if sandbox.state is SandboxState.CREATING:
        return Decision(Step.RESOLVE_CREATE)
    if around.connected or around.running_unexpectedly or sandbox.state is SandboxState.RUNNING:
        return Decision(Step.PAUSE)
    if around.queued:
        return Decision(Step.AWAIT_PLACE)
    idle_since = resource.status.last_active_time or resource.metadata.creation_timestamp
    wait_for: float | None = None
    if around.policy.idle_ttl_seconds and idle_since is not None:
        due = idle_since + timedelta(seconds=around.policy.idle_ttl_seconds)
        if around.now >= due:
            return Decision(Step.DELETE)
        wait_for = (due - around.now).total_seconds()
    return _still(resource, around, wait_for)


def _still(resource: ManagedSession, around: Surroundings, wait_for: float | None) -> Decision:
    """Nothing runs and nothing is offered: why, and when to look again (`wait_for` seconds at most)."""
    work = resource.status.work
    if around.queue_trouble is not None and has_hint(resource):
        return Decision(Step.WAIT, Reason.ENVIRONMENT_UNAVAILABLE, around.queue_trouble, wait_for)
    if (stuck := _stuck(resource, around)) is not None:
        return stuck
    if (lapse := _lease_lapses_after(resource, around.now)) > 0:
        message = f"the worker ended ({work.exit_reason}) and its lease has not lapsed yet"
        return Decision(
            Step.WAIT, Reason.AWAITING_LEASE, message, min(lapse, wait_for) if wait_for else lapse
        )
    reason = _GIVEN_UP.get(work.exit_reason or "", Reason.IDLE)
    said = resource.status.condition(ConditionType.READY)
    message = said.message if said is not None and said.reason == reason else ""
    return Decision(Step.WAIT, reason, message, wait_for)


def _lease_lapses_after(resource: ManagedSession, now: datetime) -> float:
    """Seconds until the lease of a worker lapses that did not give it back; 0 when there is none."""
    work = resource.status.work
    if work.finished_at is None or work.exit_reason in GIVEN_BACK or work.first_heartbeat_at is None:
        return 0.0
    return max(0.0, (work.finished_at + timedelta(seconds=LEASE_SECONDS) - now).total_seconds())


def _stuck(resource: ManagedSession, around: Surroundings) -> Decision | None:
    """The session may be stuck: nobody serves it, and its turn is not known to be over."""
    found = assess(resource, around.sightings, around.now)
    if found is None:
        return None
    match found.remedy:
        case Remedy.LOOK:
            return Decision(Step.LOOK)
        case Remedy.RECOVER:
            return Decision(Step.RECOVER, found.reason, found.message)
        case Remedy.REST:
            return Decision(Step.WAIT)
    given_up = resource.status.work.exit_reason in _GIVEN_UP and found.reason is not Reason.IDLE
    leased = found.reason is Reason.AWAITING_CLAIM and _lease_lapses_after(resource, around.now) > 0
    if given_up or leased:
        # What is known already says more.
        return None
    return Decision(Step.WAIT, found.reason, found.message)
