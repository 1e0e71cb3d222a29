"""Builds the observation of a resource, on which `decide` chooses the next step. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from managed_session_api.resource import EffectiveStatus, ManagedSession, SandboxState
from managed_session_api.session_class import ManagedSessionClass

from managed_session_operator.domain import class_budget, egress, paused_wait, policy_record, turn_limit
from managed_session_operator.domain.class_choice import Choice
from managed_session_operator.domain.days import until_tomorrow
from managed_session_operator.domain.decide import claim_active, has_announced_run
from managed_session_operator.domain.findings import Findings
from managed_session_operator.domain.listings import Listings
from managed_session_operator.domain.observation import Observation
from managed_session_operator.domain.offer import OfferInbox
from managed_session_operator.domain.policy import policy_of
from managed_session_operator.domain.policy_layers import Policy
from managed_session_operator.domain.preparation import preparation_key
from managed_session_operator.domain.recovery import StallEvidence
from managed_session_operator.domain.session_cache import SessionCache
from managed_session_operator.domain.session_setup import RefusedMetadataError, with_session_setup
from managed_session_operator.domain.worker_run import WorkerRun
from managed_session_operator.settings import OperatorSettings

_ROLL_OVER_AT = 3 / 4
"""Fraction of E2B's longest running time after which a sandbox is rolled over."""


@dataclass(frozen=True)
class Process:
    """What this process knows beside the session itself.

    Attributes:
        settings: the installation's settings.
        environment_id: the environment that this installation serves.
        can_interrupt: whether an API key is configured.
        serving_name: the resource that serves the session.
        run: the resource's worker whose stream is open, of any claim.
        slot_wanted: whether claimed work of another session needs the slot of the announced run.
        slots_free: number of free slots that the session's class may use.
        serving: the class that the resource records.
        choice: which class would serve the next claim.
        budget_spent: whether the class of the next claim has used up its budget of today.
    """

    settings: OperatorSettings
    environment_id: str
    can_interrupt: bool
    serving_name: str | None
    run: WorkerRun | None
    slot_wanted: bool
    slots_free: int
    serving: ManagedSessionClass | None = None
    choice: Choice = field(default_factory=Choice)
    budget_spent: bool = False


def _is_prepared(resource: ManagedSession, cache: SessionCache, policy: EffectiveStatus) -> bool:
    """Return whether the running sandbox has what the policy and the session's metadata ask for."""
    work = resource.status.work
    served = work.claim is not None and work.finished_at is None and work.first_heartbeat_at is not None
    if cache.session is None and not (served or cache.metadata_waived):
        return False
    try:
        asked = with_session_setup(policy, cache.session.metadata if cache.session is not None else None)
    except RefusedMetadataError:
        return served
    return cache.prepared == preparation_key(asked, equipped=bool(resource.status.sandbox.equipped))


def observe(
    resource: ManagedSession,
    cache: SessionCache,
    inbox: OfferInbox,
    listings: Listings,
    now: datetime,
    process: Process,
) -> Observation:
    """Return what is known about the resource at `now`."""
    session_id, work, settings = resource.spec.session_id, resource.status.work, process.settings
    merged, run = policy_of(resource, settings, process.serving), process.run
    policy = merged.values
    name, found = resource.metadata.name, findings_for(cache, listings)
    expired = _announced_run_expired(resource, cache, policy, now)
    start_timeout = timedelta(seconds=settings.worker_start_timeout_seconds)
    own_run = run if run is not None and run.claim == work.claim else None
    resync_interval = timedelta(seconds=settings.resync_interval_seconds)
    checked = egress.checked_at(cache.network_checked, policy)
    seen = Observation(
        now=now,
        environment_id=process.environment_id,
        policy=policy,
        offer=inbox.get(session_id),
        offer_waits_since=inbox.waiting_since(session_id),
        run=own_run,
        connected=cache.sandbox is not None,
        prepared=_is_prepared(resource, cache, policy),
        extend_at=cache.extend_at,
        roll_over_at=roll_over_at(cache, settings, _period(found, cache, name)),
        serving_name=process.serving_name,
        announced_run_seen_at=cache.announced_run[1] if cache.announced_run is not None else None,
        announced_run_expired=expired,
        announced_run_displaced=process.slot_wanted,
        queued=not process.slots_free and _is_queued(resource, listings),
        message_known=cache.message_known or resource.status.turns > 0,
        end_check_due=cache.end_check_due,
        running_unexpectedly=name in found.running_unneeded,
        missing=cache.gone or name in found.missing,
        wiped=_is_wiped(resource, run, unrecorded=name in found.unrecorded),
        queue_error=listings.queue_error,
        snapshot_again_after=_seconds_until(cache.snapshot_again_at, now),
        start_overdue_at=cache.started_at + start_timeout if cache.started_at is not None else None,
        wait_pause_at=paused_wait.pause_at(resource, cache, policy, own_run),
        answer_check_at=paused_wait.check_at(resource, cache, listings.paused_waits, resync_interval),
        answered=cache.wait_answered is not None and cache.wait_answered == work.claim,
        network_due=egress.is_due(resource, policy, checked, now, resync_interval),
        evidence=_evidence(
            resource, cache, listings, process, announced=expired and has_announced_run(resource)
        ),
    )
    return _with_class(seen, resource, cache, process, merged)


def _with_class(
    seen: Observation, resource: ManagedSession, cache: SessionCache, process: Process, policy: Policy
) -> Observation:
    """Add what is known because of a class; nothing for a session without one."""
    choice, serving = process.choice, process.serving
    if choice == Choice() and not policy_record.is_classed(resource):
        return seen
    limit = serving.spec.limits.max_turn_seconds if serving is not None else None
    stays = claim_active(resource) or (choice.undecided and seen.offer is None)
    present = serving if stays else choice.chosen
    suspends = present is not None and present.spec.session.lifecycle.suspend
    spent = process.budget_spent and choice.chosen is not None
    return replace(
        seen,
        choice=choice,
        suspended_by=present.metadata.name if suspends and present is not None else "",
        policy_due=policy_record.record_due(resource, policy),
        network_due=seen.network_due or policy_record.network_due(resource, policy),
        turn_check_at=turn_limit.check_at(resource, cache, limit),
        turn_check_due=cache.turn_checked != turn_limit.checked_for(resource, limit),
        turn_limit=limit,
        budget_spent=class_budget.spent_message(choice.chosen) if spent and choice.chosen else "",
        budget_again_after=until_tomorrow(seen.now) if spent else None,
    )


def findings_for(cache: SessionCache, listings: Listings) -> Findings:
    """Return what the newest resync found; nothing if the resource's part of it has been handled."""
    return Findings() if cache.is_settled(listings.findings) else listings.findings


def roll_over_at(
    cache: SessionCache, settings: OperatorSettings, period: datetime | None = None
) -> datetime | None:
    """Return when to roll the connected sandbox over; None if it is not running.

    Args:
        cache: what this process knows of the resource.
        settings: the installation's settings.
        period: start of the sandbox's running period, from a list that is newer than the cache.
    """
    if cache.running_since is None:
        return None
    due = (period or cache.running_since) + timedelta(
        seconds=settings.sandbox_max_lifetime_seconds
    ) * _ROLL_OVER_AT
    return max(due, cache.roll_over_not_before or due)


def _period(found: Findings, cache: SessionCache, name: str) -> datetime | None:
    """Return the start of the running period that E2B reports, if its list is newer than our connection."""
    since, listed_at = cache.running_since, found.listed_at
    newer = since is not None and listed_at is not None and since < listed_at
    return found.periods.get(name) if newer else None


def _announced_run_expired(
    resource: ManagedSession, cache: SessionCache, policy: EffectiveStatus, now: datetime
) -> bool:
    """Return whether the work of the announced run was not offered in time."""
    event = resource.status.last_event
    if event is None:
        return False
    patience = timedelta(seconds=policy.attach_timeout_seconds)
    seen_at = cache.announced_run[1] if cache.announced_run is not None else now
    return now - seen_at > patience or now - event.created_at > patience * 2


def _seconds_until(moment: datetime | None, now: datetime) -> float | None:
    """Return the seconds until `moment`; None if it has passed."""
    return (moment - now).total_seconds() if moment is not None and moment > now else None


def _is_queued(resource: ManagedSession, listings: Listings) -> bool:
    """Return whether the session's work is in the newest work list, and no turn has ended since."""
    listed, finished = listings.work_list, resource.status.work.finished_at
    if listed is None or (finished is not None and listed.asked_at <= finished):
        return False
    item = listed.of_session(resource.spec.session_id)
    return item is not None and item.state == "queued"


def _is_wiped(resource: ManagedSession, run: WorkerRun | None, *, unrecorded: bool) -> bool:
    """Return whether somebody removed the status of a resource that has a worker or a sandbox."""
    status = resource.status
    if status.sandbox.id is not None or status.sandbox.state is SandboxState.CREATING:
        return False
    return (status.work.claim is None and run is not None) or unrecorded


def _evidence(
    resource: ManagedSession, cache: SessionCache, listings: Listings, process: Process, *, announced: bool
) -> StallEvidence:
    """Return what was seen of the session, in case that no worker serves it."""
    items, settings = listings.work_list, process.settings
    return StallEvidence(
        listed_at=items.asked_at if items is not None else None,
        item=items.of_session(resource.spec.session_id) if items is not None else None,
        unstarted_since=findings_for(cache, listings).unstarted.get(resource.metadata.name),
        announced=announced,
        inspection=cache.inspection,
        acted_at=cache.acted_at,
        can_interrupt=process.can_interrupt,
        attempts=settings.recovery_attempts,
        resync_interval=timedelta(seconds=settings.resync_interval_seconds),
    )
