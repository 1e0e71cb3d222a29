"""Decides for sessions whose sandbox is paused because they wait for their user. Pure.

The worker is frozen in the sandbox, with or without its lease: nobody sends heartbeats for it. When the lease
lapses, Anthropic queues the session's work again. The offer stays unacknowledged until the answer is there,
so the work cannot be lost, whatever happens to this process or to the sandbox. The answer is found by an
event, or by reading the session's newest events now and then.

- As long as the lease lives, the answer resumes the worker, as after a roll-over.
- After that, the offer is claimed like that of any other turn.
- If there is neither a lease nor an offer, the sandbox is resumed too: its worker finds out whether anybody
  else can serve the session, and otherwise serves it without a lease.

See docs/adr/0012-let-the-lease-lapse-while-waiting.md.
"""

from __future__ import annotations

import zlib
from datetime import datetime, timedelta

from managed_session_api.conditions import Reason
from managed_session_api.resource import EffectiveStatus, ManagedSession, SandboxState

from managed_session_operator.domain import user_wait
from managed_session_operator.domain.observation import Observation
from managed_session_operator.domain.session_cache import SessionCache
from managed_session_operator.domain.step import Decision, Step
from managed_session_operator.domain.worker_run import WorkerRun

_LEAST_WAIT_SECONDS = 0.1
_CHECKED_SHARE = 10
"""A wait is checked again after this part of its age, within the limits below."""
_LEAST_RESYNCS, _MOST_RESYNCS = 1 / 3, 10
"""Shortest and longest time between two checks of a session, in resyncs."""
_SECONDS_PER_CHECK = 0.5
"""All waiting sessions together are checked at most this often. Anthropic allows 1,200 reads a minute."""


def pause_at(
    resource: ManagedSession, cache: SessionCache, policy: EffectiveStatus, run: WorkerRun | None
) -> datetime | None:
    """Return when to pause the sandbox of a worker that waits for its user; None if it does not.

    A worker that serves late has no lease, so no work would be queued for its session meanwhile.
    """
    work, seconds = resource.status.work, policy.pause_while_waiting_seconds
    late = work.serving_late_since is not None or (run is not None and run.late)
    if not seconds or work.awaiting_user_since is None or late or run is None or not run.awaiting:
        return None
    due = work.awaiting_user_since + timedelta(seconds=seconds)
    return max(due, cache.wait_pause_not_before or due)


def check_at(
    resource: ManagedSession, cache: SessionCache, waiting: int, resync_interval: timedelta
) -> datetime | None:
    """Return when to look for the answer of a session whose sandbox is paused; None if it is not.

    Args:
        resource: the resource.
        cache: what this process knows of it.
        waiting: number of sessions whose sandbox is paused while they wait.
        resync_interval: the time between two resyncs.
    """
    work, event = resource.status.work, resource.status.last_event
    if not user_wait.is_paused(resource) or work.wait_paused_at is None:
        return None
    together = waiting * _SECONDS_PER_CHECK
    if cache.wait_checked is None:
        seen = cache.wait_seen_at or work.wait_paused_at
        taken_over = seen - work.wait_paused_at > resync_interval
        share = zlib.crc32(resource.metadata.name.encode()) / 2**32
        return seen + timedelta(seconds=together * share) if taken_over else seen
    checked_at, known = cache.wait_checked
    if event is not None and event.id != known:
        return checked_at
    age = checked_at - (work.awaiting_user_since or work.wait_paused_at)
    usual = min(max(age / _CHECKED_SHARE, resync_interval * _LEAST_RESYNCS), resync_interval * _MOST_RESYNCS)
    return checked_at + max(usual, timedelta(seconds=together))


def decide_paused_wait(resource: ManagedSession, observation: Observation) -> Decision | None:
    """Return the next step for a session whose sandbox is paused while it waits; None for any other."""
    if not user_wait.is_paused(resource):
        return None
    if observation.answered:
        acknowledged_at, offer = resource.status.work.acknowledged_at, observation.offer
        newer = offer is not None and acknowledged_at is not None and offer.offered_at > acknowledged_at
        return Decision(Step.CLAIM if newer else Step.RESUME_WAIT)
    due = observation.answer_check_at
    if due is not None and observation.now >= due:
        return Decision(Step.CHECK_ANSWER)
    if resource.status.sandbox.state is SandboxState.RUNNING or observation.connected:
        return Decision(Step.PAUSE_WAIT)
    wait = max(_LEAST_WAIT_SECONDS, (due - observation.now).total_seconds()) if due is not None else None
    return Decision(Step.WAIT, Reason.AWAITING_USER, user_wait.message(resource) or "", wait)
