"""Holds what one process knows of a resource. After a restart all of it is found out again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from managed_session_api.resource import ManagedSession
from pydantic import SecretStr

from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.findings import Findings
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.session import SessionView
from managed_session_operator.domain.turn import Inspection
from managed_session_operator.domain.work_item import WorkList

EXTEND_AT_FRACTION = 1 / 3
"""Fraction of a sandbox's countdown after which the countdown is restarted."""


@dataclass(slots=True)
class SessionCache:
    """What this process knows of a resource that the resource itself does not record."""

    sandbox: SandboxHandle | None = None
    """The running sandbox, connected by this process."""
    extend_at: datetime | None = None
    """When to restart the sandbox's countdown."""
    running_since: datetime | None = None
    """When the sandbox's running period began, as far as is known. E2B limits its length."""
    roll_over_not_before: datetime | None = None
    """Earliest time of the next roll-over, after one that failed or that E2B did not count."""
    session: SessionView | None = None
    """The session, as it was read for this or an earlier claim."""
    metadata_read_for: tuple[object, ...] | None = None
    """For which turn the session's metadata were read to choose its class. They may change between turns."""
    token: tuple[str, SecretStr | None] | None = None
    """A claim's session token, as in its Secret: (claim, token)."""
    waits_since: tuple[str, datetime] | None = None
    """Since when a claim's work has been waiting, longer than its newest offer: (claim, time)."""
    message_known: bool = False
    """The session has had a message."""
    message_checks: int = 0
    """Number of checks that have found no message."""
    end_check_due: bool = False
    """The session end check wants to know whether the session has ended."""
    end_asked_at: datetime | None = None
    gone: bool = False
    """E2B no longer knew the sandbox when it was to be paused after its worker's end."""
    settled_findings: int = 0
    """Number of the last resync whose findings about the resource have been handled."""
    uid: str | None = None
    """The resource's UID. A later resource of the same name starts with an empty cache."""
    announced_run: tuple[str, datetime] | None = None
    """The announced run and when this process first saw it: (event ID, time)."""
    fresh_attempt: int | None = None
    """The attempt that this process has recorded but not sent yet, so that no sandbox of it can exist."""
    not_ours: tuple[float, tuple[object, ...]] | None = None
    """The session is not ours: (monotonic time until which this holds, what the answer depends on)."""
    made_here: str | None = None
    """The resource's UID if this process created the resource. Then no sandbox of it can be older."""
    skills_written: tuple[str, str | None] | None = None
    """The sandbox that has the session's current skills, and for which claim: (sandbox, claim)."""
    hooks_run: set[str] = field(default_factory=set)
    """The hooks that have run in this running period of the sandbox, before its end."""
    hooks_until: dict[str, float] = field(default_factory=dict)
    """Until when such a hook is waited for, by the monotonic clock."""
    outputs_copied: tuple[str | None, str] | None = None
    """For which claim outputs were copied at its end, and what went wrong: (claim, "" for nothing)."""
    metadata_waived: bool = False
    """The session could not be read, so its turn goes on without what its metadata may ask for."""
    prepared: str | None = None
    """What the running sandbox was prepared with since it was created or resumed (`preparation_key`)."""
    preparation_failures: int = 0
    """Number of consecutive preparations that failed because somebody has to change something."""
    unprepared: OperationError | None = None
    """Why the running sandbox could not be prepared, while it is being paused until the next try."""
    started_at: datetime | None = None
    failures: int = 0
    """Number of failures since the failing step last succeeded. Other steps that succeed do not reset it."""
    trying: str | None = None
    """The step that was taken last."""
    failing: str | None = None
    """The step that failed last and has not succeeded since."""
    backoff: tuple[float, tuple[object, ...]] | None = None
    """When a failed step may be tried again: (monotonic time, what the step depended on)."""
    inspection: Inspection | None = None
    """What the last inspection of the session found, while its turn may not be over."""
    acted_at: datetime | None = None
    """When the operator last acted on a session that may be stuck."""
    position_reported: WorkList | None = None
    """The work list from which the session's queue position was last reported."""
    waits_for_creation: bool = False
    """The creation rate did not allow its sandbox at once."""
    refused_pauses: int = 0
    """Number of consecutive pauses that E2B refused, as for a sandbox whose system does not respond."""
    unanswered: int = 0
    """Number of consecutive requests that the running sandbox did not answer."""
    resume_unreported: bool = False
    """The sandbox was resumed under its worker, which does not know yet that its connections are dead."""
    network_checked: tuple[str, datetime] | None = None
    """When the sandbox's network rules were last compared with the Secrets: (for which policy, time)."""
    network_refusals: int = 0
    """Number of consecutive times that E2B did not know the running sandbox when it was to get its rules."""
    turn_began: tuple[str | None, datetime] | None = None
    """When the turn of the present claim's worker began, as far as is known: (claim, time)."""
    turn_interrupted: tuple[str | None, datetime] | None = None
    """When the operator interrupted a turn of the claim that was too long: (claim, time)."""
    turn_checked: tuple[object, ...] | None = None
    """What the newest check of a turn that was too long depended on."""
    wait_pause_not_before: datetime | None = None
    """Earliest time to pause the sandbox of a worker that waits for its user: it was not waiting then."""
    wait_seen_at: datetime | None = None
    """When this process first saw that the sandbox is paused while the session waits for its user."""
    wait_checked: tuple[datetime, str | None] | None = None
    """The newest look for the user's answer: (time, newest event of the resource at that time)."""
    wait_answered: str | None = None
    """The claim whose user has answered."""
    wait_unheld_since: datetime | None = None
    """Since when the answered session's item has been neither queued nor held."""
    snapshot_failures: int = 0
    """Number of consecutive snapshots that failed."""
    snapshot_again_at: datetime | None = None
    """When a snapshot that failed may be tried again."""
    cuts: int = 0
    """Number of consecutive times that the worker's stream was cut soon after it was opened."""

    def connect(
        self,
        sandbox: SandboxHandle,
        timeout_seconds: int,
        now: datetime,
        *,
        since: datetime | None = None,
    ) -> None:
        """Note that the sandbox runs, since when (if known), and when to restart its countdown."""
        self.sandbox = sandbox
        self.running_since = since or self.running_since or now
        self.extend_at = now + timedelta(seconds=timeout_seconds * EXTEND_AT_FRACTION)

    def disconnect(self) -> None:
        """Note that this process no longer takes the sandbox for running."""
        self.sandbox = None
        self.extend_at = self.running_since = self.roll_over_not_before = None
        self.started_at = None
        self.prepared = self.unprepared = None
        self.metadata_waived = False
        self.hooks_run.clear()
        self.hooks_until.clear()

    def note_wait(self, resource: ManagedSession, now: datetime) -> None:
        """Note when this process first saw that the sandbox is paused while the session waits."""
        if resource.status.work.wait_paused_at is None:
            self.wait_seen_at = self.wait_checked = self.wait_answered = self.wait_unheld_since = None
        elif self.wait_seen_at is None:
            self.wait_seen_at = now

    def settle(self, findings: Findings) -> None:
        """Note that these findings about the resource have been handled."""
        self.settled_findings = findings.number

    def is_settled(self, findings: Findings) -> bool:
        """Return whether these findings about the resource have been handled."""
        return self.settled_findings >= findings.number

    def note_event(self, resource: ManagedSession, now: datetime) -> None:
        """Note when this process first saw the newest event."""
        event = resource.status.last_event
        if event is not None and (self.announced_run is None or self.announced_run[0] != event.id):
            self.announced_run = (event.id, now)
