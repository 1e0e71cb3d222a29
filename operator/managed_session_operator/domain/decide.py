"""Chooses the next step for a resource: a pure function of the resource and its observation.

The choice depends on the present state, never on what has happened (level-triggered, not edge-triggered). So
every step may be repeated, reordered or interrupted: the next reconciliation continues from the state that it
finds.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from managed_session_api import names
from managed_session_api.conditions import ConditionType, Reason
from managed_session_api.events import END_TYPES, RUN_STARTED
from managed_session_api.resource import EventStatus, ManagedSession, OnSandboxLost, SandboxState
from managed_session_worker.protocol import ExitReason, lease_given_back

from managed_session_operator.domain import budget, user_wait
from managed_session_operator.domain.attendance import pause_unless_attended
from managed_session_operator.domain.held_back import held_back, policy_first
from managed_session_operator.domain.kept_snapshots import with_snapshots
from managed_session_operator.domain.observation import Observation
from managed_session_operator.domain.offer import Offer
from managed_session_operator.domain.paused_wait import decide_paused_wait
from managed_session_operator.domain.recovery import Remedy, assess
from managed_session_operator.domain.retry import decide_retry
from managed_session_operator.domain.step import Decision, Step
from managed_session_operator.domain.work_item import WorkItem
from managed_session_operator.domain.worker_run import WorkerRun

LEASE_SECONDS = 300
"""Anthropic's default lease of a work item. The queue offers an abandoned item again when it has lapsed."""

HAND_OVER_PATIENCE = timedelta(seconds=240)
"""How long an offer waits for a worker that serves late. Longer than the supervisor lets that worker run."""

_LEAST_WAIT_SECONDS = 0.1
_CLAIM_USUALLY_WITHIN = timedelta(seconds=2)

_GIVEN_UP: dict[str, Reason] = {
    ExitReason.START_FAILED: Reason.WORKER_START_FAILED,
    ExitReason.NO_SESSION_TOKEN: Reason.NO_SESSION_TOKEN,
    ExitReason.TOKEN_LOST: Reason.WORK_LOST,
    ExitReason.WORK_LOST: Reason.WORK_LOST,
}
"""The reason why a session is not Ready after a claim that ended without a worker, by exit reason."""


def lease_lives(item: WorkItem, now: datetime) -> bool:
    """Return whether the item's lease has not lapsed, so that a worker that was only paused may go on."""
    beat = item.latest_heartbeat_at
    unlapsed = beat is None or now < beat + timedelta(seconds=LEASE_SECONDS)
    return item.state in ("active", "stopping") and unlapsed


def has_announced_run(resource: ManagedSession) -> bool:
    """Return whether the last announced run is still pending.

    It is not if a turn has ended, or the session was found to need no worker, since then.
    """
    event, status = resource.status.last_event, resource.status
    settled = (status.work.finished_at, status.recovery.checked_at)
    return (
        event is not None
        and event.type == RUN_STARTED
        and all(at is None or event.created_at > at for at in settled)
    )


def claim_active(resource: ManagedSession) -> bool:
    """Return whether a claim is being served."""
    work = resource.status.work
    return work.claim is not None and work.finished_at is None


def has_begun(resource: ManagedSession, run: WorkerRun | None) -> bool:
    """Return whether the worker has sent a heartbeat. Until then it may need the token of a newer offer."""
    return resource.status.work.first_heartbeat_at is not None or (run is not None and run.heartbeat)


def serves_late(resource: ManagedSession, run: WorkerRun | None) -> bool:
    """Return whether the claim's worker serves, without a lease, a message that came as its item stopped."""
    return resource.status.work.serving_late_since is not None or (run is not None and run.late)


def decide(resource: ManagedSession, observation: Observation) -> Decision:
    """Return the next step for the resource."""
    if resource.metadata.deletion_timestamp is not None:
        held = names.FINALIZER in resource.metadata.finalizers
        return with_snapshots(resource, observation, Decision(Step.FINALIZE if held else Step.WAIT))
    if (decision := _identity(resource, observation)) is not None:
        return decision
    decision = (
        (Decision(Step.RESTORE) if observation.wiped else decide_retry(resource))
        or _end(resource, observation)
        or _stopped(resource, observation)
        or decide_paused_wait(resource, observation)
        or _held_back(resource, observation)
        or _offer(resource, observation)
        or (_serve(resource, observation) if claim_active(resource) else _unclaimed(resource, observation))
    )
    decision = with_snapshots(resource, observation, decision)
    if decision.step is Step.CLEAN_SANDBOX:
        # Before the sandbox gets this session's secrets: another session's processes may run in it.
        return decision
    return policy_first(resource, observation, decision)


def _identity(resource: ManagedSession, observation: Observation) -> Decision | None:
    """Decide for resources that are not ours, or not ours yet."""
    environment_id = resource.spec.environment_id
    if environment_id is not None and environment_id != observation.environment_id:
        message = (
            f"The resource belongs to environment {environment_id}, but this installation serves "
            f"{observation.environment_id}."
        )
        return Decision(Step.REFUSE, Reason.ENVIRONMENT_MISMATCH, message)
    if observation.serving_name not in (None, resource.metadata.name):
        message = (
            f"The resource {observation.serving_name} already serves session {resource.spec.session_id}."
        )
        return Decision(Step.REFUSE, Reason.DUPLICATE_SESSION, message)
    if environment_id is None or names.FINALIZER not in resource.metadata.finalizers:
        return Decision(Step.TAKE_OWNERSHIP if observation.offer is not None else Step.VERIFY_OWNERSHIP)
    return None


def unchecked_end_event(resource: ManagedSession) -> EventStatus | None:
    """Return the event that reports the session's end, unless Anthropic was already asked about it."""
    event = resource.status.last_event
    if event is None or event.type not in END_TYPES:
        return None
    return event if event.id != resource.status.recovery.checked_end_event else None


def _end(resource: ManagedSession, observation: Observation) -> Decision | None:
    """Decide for sessions that have ended, or may have."""
    status = resource.status
    if status.ended_at is None:
        asks = observation.end_check_due or unchecked_end_event(resource) is not None
        return Decision(Step.CONFIRM_END) if asks else None
    if observation.offer is not None:
        return Decision(Step.REJECT_OFFER)
    if claim_active(resource) and observation.run is not None and observation.run.record is not None:
        return Decision(Step.FINISH)
    if status.sandbox.state is SandboxState.CREATING:
        return Decision(Step.RESOLVE_CREATE)
    if _runs(resource, observation):
        return Decision(Step.SUSPEND)
    due = status.ended_at + timedelta(seconds=observation.policy.ttl_seconds_after_end)
    if observation.now >= due:
        return Decision(Step.DELETE)
    message = f"The session has ended. The resource will be deleted at {due:%Y-%m-%dT%H:%M:%SZ}."
    return Decision(Step.WAIT, Reason.SESSION_ENDED, message, (due - observation.now).total_seconds())


def _stopped(resource: ManagedSession, observation: Observation) -> Decision | None:
    """Decide for sessions that are not served at the moment: suspended, or failed by policy."""
    sandbox = resource.status.sandbox
    if observation.missing and sandbox.id is not None:
        return Decision(Step.RECORD_VANISHED)
    if claim_active(resource) and observation.run is not None and observation.run.record is not None:
        return Decision(Step.FINISH)
    own = resource.spec.lifecycle.suspend
    if own or (own is None and observation.suspended_by):
        if sandbox.state is SandboxState.CREATING:
            return Decision(Step.RESOLVE_CREATE)
        if _runs(resource, observation):
            return Decision(Step.SUSPEND)
        message = "" if own else f"The class {observation.suspended_by} suspends its sessions."
        return Decision(Step.WAIT, Reason.SUSPENDED, message)
    if sandbox.state is SandboxState.LOST and observation.policy.on_sandbox_lost is OnSandboxLost.FAIL:
        return Decision(
            Step.WAIT, Reason.SANDBOX_VANISHED, "The sandbox vanished, and onSandboxLost is Fail."
        )
    return None


def _runs(resource: ManagedSession, observation: Observation) -> bool:
    """Return whether the sandbox runs according to the resource, this process or E2B's list."""
    recorded = resource.status.sandbox.state is SandboxState.RUNNING
    return recorded or observation.connected or observation.running_unexpectedly


def _held_back(resource: ManagedSession, observation: Observation) -> Decision | None:
    """Decide for sessions that their class, or a tie between classes, keeps from being served."""
    if claim_active(resource):
        return None
    announced = has_announced_run(resource) and not observation.announced_run_expired
    return held_back(resource, observation, runs=_runs(resource, observation), announced=announced)


def _offer(resource: ManagedSession, observation: Observation) -> Decision | None:
    """Decide for offered work."""
    offer = observation.offer
    if offer is None:
        return None
    if claim_active(resource):
        return _offer_beside_claim(resource, observation, offer)
    if observation.message_known or has_announced_run(resource):
        return Decision(Step.CLAIM)
    since = observation.offer_waits_since or offer.offered_at
    if observation.now >= since + timedelta(seconds=observation.policy.attach_timeout_seconds):
        return Decision(Step.RELEASE_UNUSED)
    return Decision(Step.AWAIT_MESSAGE)


def _offer_beside_claim(resource: ManagedSession, observation: Observation, offer: Offer) -> Decision | None:
    """Decide for work that was offered while a claim of its session is served."""
    acknowledged_at = resource.status.work.acknowledged_at
    if observation.run is not None and observation.run.record is not None:
        return Decision(Step.FINISH)
    if acknowledged_at is None:
        return Decision(Step.REFRESH_TOKEN)
    since = observation.offer_waits_since or offer.offered_at
    if serves_late(resource, observation.run) and observation.now < since + HAND_OVER_PATIENCE:
        # The worker ends after its tool call at the latest. If it were ended during the call, the next
        # worker would run the call a second time.
        return None
    if offer.offered_at > acknowledged_at:
        # It is a claim of its own, which may have another class.
        return Decision(Step.LEARN_SESSION if observation.choice.undecided else Step.CLAIM)
    return Decision(Step.DROP_OFFER if has_begun(resource, observation.run) else Step.REFRESH_TOKEN)


def _serve(resource: ManagedSession, observation: Observation) -> Decision:
    """Decide for an active claim without a newer offer."""
    work, run = resource.status.work, observation.run
    if run is not None and run.record is not None:
        return Decision(Step.FINISH)
    if (
        observation.connected
        and observation.extend_at is not None
        and observation.now >= observation.extend_at
    ):
        return Decision(Step.EXTEND)
    if observation.connected and not observation.prepared and work.first_heartbeat_at is None:
        return Decision(Step.PREPARE)
    if work.acknowledged_at is None:
        return Decision(Step.ACKNOWLEDGE if observation.connected else Step.PROVISION)
    if work.first_heartbeat_at is not None:
        if run is None or not run.live:
            return Decision(Step.REATTACH)
    elif run is not None and run.heartbeat:
        # Also if the stream is cut: no second worker is started under a claim that holds the lease.
        return Decision(Step.RECORD_HEARTBEAT)
    elif run is None or not run.live:
        return Decision(Step.START_WORKER if observation.connected else Step.PROVISION)
    return _attached(resource, observation)


def _attached(resource: ManagedSession, observation: Observation) -> Decision:
    """Decide for a worker that was started and whose event stream is open."""
    started = resource.status.work.first_heartbeat_at is not None
    turn_check_at = observation.turn_check_at if not user_wait.waits(resource) else None
    if started and (step := _under_worker(resource, observation, turn_check_at)) is not None:
        return Decision(step)
    if (
        not started
        and observation.start_overdue_at is not None
        and observation.now >= observation.start_overdue_at
    ):
        return Decision(Step.STOP_WORKER)
    due = observation.extend_at if started else (observation.start_overdue_at or observation.extend_at)
    if started and due is not None:
        due = min(
            due, observation.roll_over_at or due, turn_check_at or due, observation.wait_pause_at or due
        )
    wait = max(_LEAST_WAIT_SECONDS, (due - observation.now).total_seconds()) if due is not None else None
    if started and (message := user_wait.message(resource)) is not None:
        return Decision(Step.WAIT, Reason.AWAITING_USER, message, wait)
    return Decision(Step.WAIT, Reason.RUNNING if started else Reason.STARTING_WORKER, again_after=wait)


def _under_worker(
    resource: ManagedSession, observation: Observation, turn_check_at: datetime | None
) -> Step | None:
    """Return what there is to do now for a worker that has its lease."""
    run, now = observation.run, observation.now
    if run is not None and run.late and resource.status.work.serving_late_since is None:
        return Step.RECORD_LATE_SERVING
    if user_wait.changed(resource, run):
        return Step.RECORD_USER_WAIT
    if observation.connected and not observation.prepared:
        return Step.PREPARE
    timed = (
        (observation.wait_pause_at, Step.PAUSE_WAIT),
        (turn_check_at, Step.CHECK_TURN),
        (observation.roll_over_at, Step.ROLL_OVER),
    )
    return next((step for at, step in timed if at is not None and now >= at), None)


def _prewarm(observation: Observation) -> Decision:
    """Decide for an announced run: get the sandbox ready before the work is offered."""
    if not observation.connected:
        return Decision(Step.PROVISION)
    if not observation.prepared:
        return Decision(Step.PREPARE)
    if (
        observation.announced_run_seen_at is not None
        and observation.now < observation.announced_run_seen_at + _CLAIM_USUALLY_WITHIN
    ):
        return Decision(
            Step.WAIT,
            Reason.AWAITING_CLAIM,
            again_after=_CLAIM_USUALLY_WITHIN.total_seconds(),
            worth_writing=False,
        )
    wait = float(observation.policy.attach_timeout_seconds)
    return Decision(Step.WAIT, Reason.AWAITING_CLAIM, "Waiting for the work of the announced run.", wait)


def _unclaimed(resource: ManagedSession, observation: Observation) -> Decision:
    """Decide for a session without a claim and without an offer."""
    sandbox = resource.status.sandbox
    with_announced_run = (
        has_announced_run(resource)
        and not observation.announced_run_expired
        and not observation.announced_run_displaced
    )
    if with_announced_run and observation.queue_error is None:
        return _prewarm(observation)
    if sandbox.state is SandboxState.CREATING:
        # A restore needs its sandbox, although no worker does.
        return Decision(Step.RESOLVE_CREATE if sandbox.replaces is None else Step.PROVISION)
    if _runs(resource, observation):
        return pause_unless_attended(resource, observation.now)
    if observation.queued:
        return Decision(Step.AWAIT_SLOT)
    idle_since = resource.status.last_active_time or resource.metadata.creation_timestamp
    wait_for: float | None = None
    if observation.policy.idle_ttl_seconds and idle_since is not None:
        due = idle_since + timedelta(seconds=observation.policy.idle_ttl_seconds)
        if observation.now >= due:
            return Decision(Step.DELETE)
        wait_for = (due - observation.now).total_seconds()
    return _at_rest(resource, observation, wait_for)


def _at_rest(resource: ManagedSession, observation: Observation, wait_for: float | None) -> Decision:
    """Report why nothing runs, and reconcile again within `wait_for` seconds."""
    work = resource.status.work
    if observation.queue_error is not None and has_announced_run(resource):
        return Decision(Step.WAIT, Reason.ENVIRONMENT_UNAVAILABLE, observation.queue_error, wait_for)
    if (stuck := _stuck(resource, observation)) is not None:
        return stuck
    if (lapses_at := _lease_lapses_at(resource, observation)) is not None:
        lapse = (lapses_at - observation.now).total_seconds()
        return Decision(
            Step.WAIT,
            Reason.AWAITING_LEASE,
            lease_message(work.exit_reason, lapses_at),
            min(lapse, wait_for) if wait_for else lapse,
        )
    if budget.budget_reached(resource):
        return Decision(Step.WAIT, Reason.BUDGET_REACHED, budget.message(resource), wait_for)
    reason = _GIVEN_UP.get(work.exit_reason or "", Reason.IDLE)
    ready = resource.status.condition(ConditionType.READY)
    message = ready.message if ready is not None and ready.reason == reason else ""
    return Decision(Step.WAIT, reason, message, wait_for)


def lease_message(exit_reason: str | None, lapses_at: datetime) -> str:
    """Return the message about a lease that a worker has left behind."""
    at = f"{lapses_at:%Y-%m-%dT%H:%M:%SZ}"
    return f"The worker ended ({exit_reason}) without giving its lease back. The lease expires by {at}."


def _lease_lapses_at(resource: ManagedSession, observation: Observation) -> datetime | None:
    """Return when the lease lapses that a worker has left behind; None if there is none.

    A worker may have a lease although it never got an answer to its heartbeat.
    """
    work, item = resource.status.work, observation.evidence.item
    if work.finished_at is None or lease_given_back(work.exit_reason) or work.serving_late_since is not None:
        return None
    held = item is not None and item.state == "active" and work.exit_reason not in _GIVEN_UP
    if work.first_heartbeat_at is None and work.exit_reason != ExitReason.LEASE_LOST and not held:
        return None
    lapses_at = work.finished_at + timedelta(seconds=LEASE_SECONDS)
    if held and item is not None and item.latest_heartbeat_at is not None:
        lapses_at = min(lapses_at, item.latest_heartbeat_at + timedelta(seconds=LEASE_SECONDS))
    return lapses_at if lapses_at > observation.now else None


def _stuck(resource: ManagedSession, observation: Observation) -> Decision | None:
    """Decide for a session that may be stuck: no worker serves it, and its turn may not be over."""
    found = assess(resource, observation.evidence, observation.now)
    if found is None:
        return None
    match found.remedy:
        case Remedy.INSPECT:
            return Decision(Step.INSPECT_SESSION)
        case Remedy.RECOVER:
            return Decision(Step.RECOVER, found.reason, found.message)
        case Remedy.REST:
            return Decision(Step.WAIT)
    given_up = resource.status.work.exit_reason in _GIVEN_UP and found.reason is not Reason.IDLE
    leased = found.reason is Reason.AWAITING_CLAIM and _lease_lapses_at(resource, observation) is not None
    if given_up or leased:
        # The reason that `_at_rest` would report tells more.
        return None
    return Decision(Step.WAIT, found.reason, found.message)
