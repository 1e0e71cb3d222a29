"""Defines everything that is known when the next step for a resource is chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from managed_session_api.resource import EffectiveStatus

from managed_session_operator.domain.class_choice import Choice
from managed_session_operator.domain.offer import Offer
from managed_session_operator.domain.recovery import StallEvidence
from managed_session_operator.domain.worker_run import WorkerRun


@dataclass(frozen=True)
class Observation:
    """What is known about a resource at one moment, beside the resource itself.

    Attributes:
        now: the time.
        environment_id: the environment that this installation serves.
        policy: the policy in force.
        offer: offered work that is not recorded in the resource yet.
        offer_waits_since: when that work was first offered.
        run: what this process knows of the worker of `status.work.claim`.
        connected: whether this process takes the recorded sandbox for running.
        prepared: whether nothing has to be prepared in the sandbox before a worker is started.
        extend_at: when to restart the sandbox's countdown; None if the sandbox is not running.
        roll_over_at: when to roll the sandbox over; None if it is not running.
        serving_name: the resource that serves the session: this one, unless an older one exists.
        announced_run_seen_at: when this process first saw the announced run.
        announced_run_expired: whether the work of the announced run has not been offered in time.
        announced_run_displaced: whether claimed work needs the slot of the announced run.
        queued: whether the session's work is in the queue and no slot is free for it.
        message_known: whether the session is known to have had a message.
        end_check_due: whether the session end check wants to know if the session has ended.
        running_unexpectedly: whether a resync found the sandbox running although nothing needs it.
        missing: whether a resync found that E2B no longer knows the recorded sandbox.
        wiped: whether the status was removed: it names no sandbox, although a worker or a sandbox exists.
        queue_error: the queue's error, while the queue answers every poll with one.
        start_overdue_at: when the started worker should have sent its first heartbeat.
        wait_pause_at: when to pause the sandbox of a worker that waits for its user; None if it does not.
        answer_check_at: when to look for the answer of a session whose sandbox is paused for that.
        answered: whether that answer is there.
        evidence: what was seen of a session that no worker serves.
        choice: which class would serve the session's next claim.
        suspended_by: the class that suspends the session, unless its own spec says otherwise; "" for none.
        policy_due: whether the status does not say which policy is in force.
        network_due: whether the sandbox has other network rules than the policy.
        turn_check_at: when to find out whether the running turn is too long.
        turn_check_due: whether a turn that was too long has to be looked at again.
        turn_limit: the class's limit in seconds.
        budget_spent: message about the class's budget of today, if it is used up.
        budget_again_after: seconds until the class's next day begins.
        snapshot_again_after: seconds until a snapshot that failed may be tried again.
    """

    now: datetime
    environment_id: str
    policy: EffectiveStatus
    offer: Offer | None = None
    offer_waits_since: datetime | None = None
    run: WorkerRun | None = None
    connected: bool = False
    prepared: bool = True
    extend_at: datetime | None = None
    roll_over_at: datetime | None = None
    serving_name: str | None = None
    announced_run_seen_at: datetime | None = None
    announced_run_expired: bool = False
    announced_run_displaced: bool = False
    queued: bool = False
    message_known: bool = False
    end_check_due: bool = False
    running_unexpectedly: bool = False
    missing: bool = False
    wiped: bool = False
    queue_error: str | None = None
    start_overdue_at: datetime | None = None
    wait_pause_at: datetime | None = None
    answer_check_at: datetime | None = None
    answered: bool = False
    evidence: StallEvidence = field(default_factory=StallEvidence)
    choice: Choice = field(default_factory=Choice)
    suspended_by: str = ""
    policy_due: bool = False
    network_due: bool = False
    turn_check_at: datetime | None = None
    turn_check_due: bool = False
    turn_limit: int | None = None
    budget_spent: str = ""
    budget_again_after: float | None = None
    snapshot_again_after: float | None = None
