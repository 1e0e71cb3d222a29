"""Judges whether a session without a worker is stuck, and what to do about it. Pure.

A session is stuck if its turn is not over, it has no worker of ours and none of its work is queued, so that
nothing would ever happen again. The operator acts only after two resyncs have seen the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from managed_session_api.conditions import ConditionType, Reason
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.turn import Awaited, Inspection
from managed_session_operator.domain.work_item import WorkItem

INTERRUPT = "Send the session `user.interrupt` with an API key, then repeat the message if you still need it."
STRANDED = f"The session's work was acknowledged, but no worker was started for it. {INTERRUPT}"
_STUCK = frozenset(
    {
        Reason.SESSION_STUCK,
        Reason.WORK_STRANDED,
        Reason.RECOVERING,
        Reason.WORKER_START_FAILED,
        Reason.WORK_LOST,
        Reason.ENVIRONMENT_REQUEST_REJECTED,
    }
)
_NOT_OURS = {
    Awaited.USER: "The session waits for its user to answer a tool call.",
    Awaited.UNKNOWN: "The session is in a state that this version of the operator does not know.",
}
"""Sessions that wait for somebody other than the operator are not stuck. These are their messages."""
_RESTING_RESYNCS = 10
"""Resyncs between two inspections of a session for which the operator can do nothing more."""
_THINKING_RESYNCS = 10
"""Resyncs without an event after which a running agent counts as stuck. Until then it may be thinking."""


class Remedy(Enum):
    """What to do about a session."""

    INSPECT = auto()
    """Read the session's newest events."""
    RECOVER = auto()
    """Stop the work item and, if an API key is configured, interrupt the session."""
    REPORT = auto()
    """Report its state in the conditions."""
    REST = auto()
    """Do nothing before the next resync. The conditions stay as they are."""


@dataclass(frozen=True)
class Assessment:
    """What to do about a session that may be stuck."""

    remedy: Remedy
    reason: Reason = Reason.AWAITING_CLAIM
    message: str = ""


@dataclass(frozen=True)
class StallEvidence:
    """What was seen of a session that no worker serves.

    Attributes:
        listed_at: when the newest work list was requested.
        item: the session's item in that list.
        unstarted_since: time of the first list in a row in which the item was acknowledged, but neither
            started nor ours.
        announced: whether a run was announced whose work was not offered in time.
        inspection: what the session's events showed.
        acted_at: when the operator last acted on the session.
        can_interrupt: whether an API key is configured.
        attempts: how often a stuck session is interrupted at most.
        resync_interval: the time between two resyncs.
    """

    listed_at: datetime | None = None
    item: WorkItem | None = None
    unstarted_since: datetime | None = None
    announced: bool = False
    inspection: Inspection | None = None
    acted_at: datetime | None = None
    can_interrupt: bool = False
    attempts: int = 3
    resync_interval: timedelta = timedelta(seconds=30)


def suspected(resource: ManagedSession) -> bool:
    """Return whether a claim has ended while the session's turn may not have been over."""
    recovery = resource.status.recovery
    since, checked = recovery.suspected_at, recovery.checked_at
    return since is not None and (checked is None or checked < since)


@dataclass(frozen=True)
class _Case:
    """A session without a claim and without an offer, with the evidence about it."""

    resource: ManagedSession
    seen: StallEvidence
    now: datetime

    @property
    def item_state(self) -> str | None:
        return self.seen.item.state if self.seen.item is not None else None

    @property
    def awaited(self) -> Awaited | None:
        return self.seen.inspection.turn.awaited if self.seen.inspection is not None else None

    @property
    def suspected(self) -> bool:
        return suspected(self.resource)

    @property
    def stranded(self) -> bool:
        """Whether two lists in a row had its item acknowledged and not started."""
        listed, since = self.seen.listed_at, self.seen.unstarted_since
        return listed is not None and since is not None and since < listed

    def is_calm(self) -> bool:
        """Return whether there is no sign of a stalled turn."""
        return not (self.stranded or self.suspected or self.seen.announced)

    def has_no_newer_list(self) -> bool:
        """Return whether no work list was read since the session became suspect."""
        listed, since = self.seen.listed_at, self.resource.status.recovery.suspected_at
        return listed is None or (self.suspected and since is not None and listed <= since)

    def was_acted_on(self) -> bool:
        """Return whether the operator has acted on it since the newest list."""
        acted, listed = self.seen.acted_at, self.seen.listed_at
        return acted is not None and listed is not None and acted >= listed

    def is_queued(self) -> bool:
        """Return whether its work is in the queue."""
        return self.item_state == "queued"

    def is_held(self) -> bool:
        """Return whether its work is leased: to another worker, or still to a dead worker of ours."""
        return self.item_state in ("active", "stopping")

    def is_not_inspected(self) -> bool:
        """Return whether its events were not read since the newest list."""
        inspection, listed = self.seen.inspection, self.seen.listed_at
        return inspection is None or (listed is not None and inspection.at < listed)

    def rests(self) -> bool:
        """Return whether only somebody else can act on it, so that its next inspection is not due yet."""
        inspection = self.seen.inspection
        if inspection is None or self.now >= inspection.at + _RESTING_RESYNCS * self.seen.resync_interval:
            return False
        if self.awaited in _NOT_OURS:
            return True
        return _reported_reason(self.resource) not in (None, Reason.RECOVERING) and not self.can_recover()

    def needs_no_worker(self) -> bool:
        """Return whether its turn is over, or waits for somebody other than a worker."""
        return self.seen.inspection is not None and not self.seen.inspection.turn.needs_worker

    def is_uncertain(self) -> bool:
        """Return whether two inspections with a list between them have not shown the same state yet."""
        inspection, listed = self.seen.inspection, self.seen.listed_at
        if inspection is None or listed is None:
            return True
        thinking = self.awaited is Awaited.AGENT
        patience = _THINKING_RESYNCS * self.seen.resync_interval if thinking else timedelta()
        return inspection.since >= listed or inspection.at - inspection.since < patience

    def can_recover(self) -> bool:
        """Return whether it may be interrupted once more."""
        return self.seen.can_interrupt and self.resource.status.recovery.attempts < self.seen.attempts

    def is_reported_stranded(self) -> bool:
        """Return whether there is no API key and the resource already reports that its work is stranded."""
        return not self.seen.can_interrupt and _reported_reason(self.resource) == Reason.WORK_STRANDED

    def always(self) -> bool:
        """Return True, for all remaining cases."""
        return True

    def wait(self, message: str) -> Assessment:
        """Wait for certainty. A session that is already reported as stuck keeps its conditions until then."""
        return (
            Assessment(Remedy.REST)
            if _reported_reason(self.resource)
            else Assessment(Remedy.REPORT, message=message)
        )

    def stuck(self) -> str:
        """Return a sentence on what a stuck session waits for."""
        if self.awaited is Awaited.AGENT:
            return "The session is running, but no work is queued for it."
        return "The agent waits for the result of a tool call, but no worker will send it."


def _held(case: _Case) -> Assessment | None:
    # A lease left by a worker of ours is reported by `decide`.
    return (
        None
        if case.suspected
        else Assessment(Remedy.REPORT, message="Another worker holds the session's work.")
    )


def _not_ours(case: _Case) -> Assessment:
    # A turn that is over needs no report: the inspection that sees it records it.
    message = _NOT_OURS.get(case.awaited) if case.awaited is not None else None
    return Assessment(Remedy.REPORT, Reason.IDLE, message) if message else Assessment(Remedy.REST)


def _helpless(case: _Case) -> Assessment:
    tried, what = case.resource.status.recovery.attempts, case.stuck()
    if case.seen.can_interrupt:
        what = f"{what} It was interrupted {tried} times without effect."
    elif tried:
        what = f"{what} Results were refused, which ended {tried} workers in a row."
    return Assessment(Remedy.REPORT, Reason.SESSION_STUCK, f"{what} {INTERRUPT}")


_TABLE: tuple[tuple[Callable[[_Case], bool], Callable[[_Case], Assessment | None]], ...] = (
    (_Case.is_calm, lambda _: None),
    (_Case.has_no_newer_list, lambda case: case.wait("The turn may not be over yet.")),
    (_Case.was_acted_on, lambda _: Assessment(Remedy.REST)),
    (_Case.is_queued, lambda _: Assessment(Remedy.REPORT, message="The session's work is queued.")),
    (_Case.is_held, _held),
    (_Case.is_not_inspected, lambda case: Assessment(Remedy.REST if case.rests() else Remedy.INSPECT)),
    (lambda case: case.stranded, lambda _: Assessment(Remedy.RECOVER, Reason.WORK_STRANDED, STRANDED)),
    (_Case.needs_no_worker, _not_ours),
    (_Case.is_uncertain, lambda case: case.wait("The turn is not over, but its work is not queued.")),
    (_Case.can_recover, lambda case: Assessment(Remedy.RECOVER, Reason.SESSION_STUCK, case.stuck())),
    (_Case.is_reported_stranded, lambda _: Assessment(Remedy.REPORT, Reason.WORK_STRANDED, STRANDED)),
    (_Case.always, _helpless),
)
"""Conditions on a session, each with the assessment that follows. The first one that applies decides."""


def assess(resource: ManagedSession, seen: StallEvidence, now: datetime) -> Assessment | None:
    """Return what to do about a session without a claim and without an offer; None if nothing is wrong."""
    case = _Case(resource, seen, now)
    return next(follows(case) for applies, follows in _TABLE if applies(case))


def _reported_reason(resource: ManagedSession) -> str | None:
    """Return the reason with which the resource reports that it is stuck, if it does."""
    ready = resource.status.condition(ConditionType.READY)
    return ready.reason if ready is not None and ready.reason in _STUCK else None
