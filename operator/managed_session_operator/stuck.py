"""Whether a session that nobody serves is stuck, and what to do: pure, from what the sweeps saw.

A session is stuck when its turn is not over, no worker of ours lives and no work of it is queued: nothing
would ever happen again. Each of that is seen twice, in two sweeps, before anything is done about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from managed_session_api.conditions import ConditionType, Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.turns import Awaited, Look
from managed_session_operator.work_list import WorkItem

INTERRUPT = "send the session `user.interrupt` with an API key, then the message again if it is still wanted"
STRANDED = f"its work was taken from the queue and no worker was started for it; {INTERRUPT}"
_STUCK = frozenset(
    {
        Reason.SESSION_STUCK,
        Reason.WORK_STRANDED,
        Reason.RECOVERING,
        Reason.WORKER_START_FAILED,
        Reason.WORK_LOST,
    }
)
_SLOW = 10
"""Sweeps between two looks at a session for which the operator can do nothing more."""
_THINKS = 10
"""Sweeps without an event after which a running agent counts as stuck: one that thinks needs no worker."""


class Remedy(Enum):
    """What an assessment asks for."""

    LOOK = auto()
    """Read the session's newest events."""
    RECOVER = auto()
    """Stop the item and, where an API key is configured, interrupt the session."""
    SAY = auto()
    """Say how it stands."""
    REST = auto()
    """Nothing before the next sweep; what was said stays."""


@dataclass(frozen=True)
class Assessment:
    """What to do about a session that may be stuck."""

    remedy: Remedy
    reason: Reason = Reason.AWAITING_CLAIM
    message: str = ""


@dataclass(frozen=True)
class Sightings:
    """What was seen of a session that nobody serves.

    Attributes:
        listed_at: when the newest work list was asked for.
        item: the session's item in it.
        unstarted_since: the first list in a row that had the item acknowledged, unstarted, not ours.
        announced: a run was announced and its work did not come in time.
        look: what its events said.
        acted_at: when something was done about it last.
        can_interrupt: an API key is configured.
        attempts: how often a stuck session is interrupted.
        sweep: the time between two sweeps.
    """

    listed_at: datetime | None = None
    item: WorkItem | None = None
    unstarted_since: datetime | None = None
    announced: bool = False
    look: Look | None = None
    acted_at: datetime | None = None
    can_interrupt: bool = False
    attempts: int = 3
    sweep: timedelta = timedelta(seconds=30)


def suspected(resource: ManagedSession) -> bool:
    """Whether a claim ended and it is not known that the session's turn was over then."""
    recovery = resource.status.recovery
    since, checked = recovery.suspected_at, recovery.checked_at
    return since is not None and (checked is None or checked < since)


def assess(resource: ManagedSession, seen: Sightings, now: datetime) -> Assessment | None:
    """What to do about a session without a claim and without an offer; None for one that is not suspected."""
    listed, item, look = seen.listed_at, seen.item, seen.look
    since = seen.unstarted_since
    stranded = listed is not None and since is not None and since < listed
    doubted = suspected(resource)
    if not (stranded or doubted or seen.announced):
        return None
    last = resource.status.recovery.suspected_at if doubted else None
    if listed is None or (last is not None and listed <= last):
        return _wait(resource, "the turn is not known to be over")
    if seen.acted_at is not None and seen.acted_at >= listed:
        return Assessment(Remedy.REST)
    if item is not None and item.state == "queued":
        return Assessment(Remedy.SAY, message="the session's work is queued")
    if item is not None and item.state in ("active", "stopping"):
        return None if doubted else Assessment(Remedy.SAY, message="somebody else holds the session's work")
    if look is None or look.at < listed:
        rests = look is not None and now < look.at + _SLOW * seen.sweep and _helpless(resource, seen, look)
        return Assessment(Remedy.REST if rests else Remedy.LOOK)
    if stranded:
        return Assessment(Remedy.RECOVER, Reason.WORK_STRANDED, STRANDED)
    if look.turn.awaited is Awaited.USER:
        return Assessment(Remedy.SAY, Reason.IDLE, "the session waits for its user's answer to a tool call")
    patience = _THINKS * seen.sweep if look.turn.awaited is Awaited.AGENT else timedelta()
    if look.since >= listed or look.at - look.since < patience:
        return _wait(resource, "the turn is not over and its work is not queued")
    return _verdict(resource, seen, look)


def _wait(resource: ManagedSession, message: str) -> Assessment:
    """Not certain yet; what was said of a stuck session stays until it is."""
    return Assessment(Remedy.REST) if _said(resource) else Assessment(Remedy.SAY, message=message)


def _said(resource: ManagedSession) -> str | None:
    """The reason why the resource is called stuck, if it is."""
    ready = resource.status.condition(ConditionType.READY)
    return ready.reason if ready is not None and ready.reason in _STUCK else None


def _helpless(resource: ManagedSession, seen: Sightings, look: Look) -> bool:
    """Whether only somebody else can do something about the session."""
    if look.turn.awaited is Awaited.USER:
        return True
    return _said(resource) not in (None, Reason.RECOVERING) and not _can_recover(resource, seen)


def _can_recover(resource: ManagedSession, seen: Sightings) -> bool:
    return seen.can_interrupt and resource.status.recovery.attempts < seen.attempts


def _verdict(resource: ManagedSession, seen: Sightings, look: Look) -> Assessment:
    what = "the agent waits for results that no worker will send"
    if look.turn.awaited is Awaited.AGENT:
        what = "the session is running, and no work of it is queued"
    if _can_recover(resource, seen):
        return Assessment(Remedy.RECOVER, Reason.SESSION_STUCK, what)
    if not seen.can_interrupt and _said(resource) == Reason.WORK_STRANDED:
        return Assessment(Remedy.SAY, Reason.WORK_STRANDED, STRANDED)
    tried = resource.status.recovery.attempts
    if seen.can_interrupt:
        what = f"{what}; it was interrupted {tried} times without effect"
    elif tried:
        what = f"{what}; {tried} workers in a row ended because a result was refused"
    return Assessment(Remedy.SAY, Reason.SESSION_STUCK, f"{what}; {INTERRUPT}")
