"""Notices that webhook events have stopped to arrive while work is found by polling.

The webhook records an event in a session's resource. So a turn whose resource has no newer event than that of
the turn before was found by polling alone. One such turn means nothing. Many in a row, over some time, in an
installation that has had events before, mean that they get lost: the endpoint was disabled, or something
between Anthropic and the webhook refuses them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from managed_session_api import names
from managed_session_api.resource import ManagedSession
from managed_session_api.times import as_utc, to_wire
from managed_session_worker.protocol import lease_given_back

from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.recovery import suspected

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hearing:
    """What is known of the webhook's events.

    Attributes:
        heard_at: when an event last announced a turn; None if none ever has.
        polled: number of turns in a row that were found by polling alone.
        polled_since: when the first of these was claimed.
        silent_since: since when events are missing; None if they are not, or that is not certain yet.
    """

    heard_at: datetime | None = None
    polled: int = 0
    polled_since: datetime | None = None
    silent_since: datetime | None = None

    def announced(self, at: datetime) -> Hearing:
        """Return what is known after a turn that an event has announced."""
        return Hearing(heard_at=max(at, self.heard_at or at))

    def found_by_polling(self, at: datetime, *, turns: int, seconds: float) -> Hearing:
        """Return what is known after a turn that no event has announced until its end.

        Args:
            at: when the turn was claimed.
            turns: how many such turns in a row mean silence; 0 for never.
            seconds: for how long they must have come in a row.
        """
        since = self.polled_since or at
        more = replace(self, polled=self.polled + 1, polled_since=since)
        lasts = (at - since).total_seconds() >= seconds
        if self.heard_at is None or not turns or more.polled < turns or not lasts:
            return more
        return replace(more, silent_since=self.silent_since or since)

    def in_words(self) -> str:
        """Return what the probe says."""
        if self.silent_since is not None:
            return f"missing since {to_wire(self.silent_since)}"
        return f"heard at {to_wire(self.heard_at)}" if self.heard_at is not None else "none heard yet"

    def to_annotations(self) -> dict[str, str | None]:
        """Return the annotations of the Lease that keep this for the next leader. None removes one."""
        return {
            names.ANNOTATION_WEBHOOK_HEARD: to_wire(self.heard_at) if self.heard_at else None,
            names.ANNOTATION_POLLED_TURNS: str(self.polled) if self.polled else None,
            names.ANNOTATION_POLLED_SINCE: to_wire(self.polled_since) if self.polled_since else None,
            names.ANNOTATION_WEBHOOK_SILENT: to_wire(self.silent_since) if self.silent_since else None,
        }

    @classmethod
    def from_annotations(cls, annotations: Mapping[str, str]) -> Hearing:
        """Return what an earlier leader has kept. What cannot be read counts as absent."""
        polled = annotations.get(names.ANNOTATION_POLLED_TURNS, "")
        return cls(
            heard_at=_time(annotations.get(names.ANNOTATION_WEBHOOK_HEARD)),
            polled=int(polled) if polled.isascii() and polled.isdecimal() else 0,
            polled_since=_time(annotations.get(names.ANNOTATION_POLLED_SINCE)),
            silent_since=_time(annotations.get(names.ANNOTATION_WEBHOOK_SILENT)),
        )


def _time(text: str | None) -> datetime | None:
    try:
        return as_utc(datetime.fromisoformat(text)) if text else None
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Claimed:
    """A turn that has begun.

    Attributes:
        claim: its claim.
        at: when it was claimed.
        after: events are about this turn if they are later. None: all are.
    """

    claim: str
    at: datetime
    after: datetime | None


def new_turn(resource: ManagedSession, claim: str, now: datetime) -> Claimed | None:
    """Return the turn that a claim begins; None if it goes on with an earlier one, which has no event.

    Args:
        resource: the resource before the claim.
        claim: the new claim.
        now: the time.
    """
    work = resource.status.work
    if claim_active(resource) or suspected(resource):
        return None
    if work.finished_at is not None and not lease_given_back(work.exit_reason):
        return None
    return Claimed(claim, now, work.acknowledged_at)


def is_announced(resource: ManagedSession, turn: Claimed) -> bool:
    """Return whether the resource has an event about the turn. One that came late counts too."""
    event = resource.status.last_event
    return event is not None and (turn.after is None or event.created_at > turn.after)


class Reporter(Protocol):
    """Receives what is known of the webhook's events."""

    def report(self, *, silent: bool, heard_at: float) -> None:
        """Note whether events are missing, and when one last announced a turn, in seconds since the epoch."""
        ...

    def count(self, *, announced: bool) -> None:
        """Count a new turn."""
        ...


class WebhookSilence:
    """Follows the turns of the leader, and reports silence and its end.

    Args:
        turns: number of turns in a row that mean silence; 0 for never.
        seconds: for how long they must have come in a row.
        reporter: receives what is known, for the metrics.
        warn: called with the warning for people when silence begins.
    """

    def __init__(
        self,
        *,
        turns: int,
        seconds: float,
        reporter: Reporter | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._turns, self._seconds = turns, seconds
        self._reporter, self._warn = reporter, warn
        self._open: dict[str, Claimed] = {}
        self.hearing = Hearing()

    def annotations(self) -> dict[str, str | None]:
        """Return what the Lease keeps for the next leader."""
        return self.hearing.to_annotations()

    def take_over(self, annotations: Mapping[str, str]) -> None:
        """Continue with what an earlier leader has left on the Lease."""
        self._open.clear()
        self._become(Hearing.from_annotations(annotations))

    def claimed(self, resource: ManagedSession, claim: str, now: datetime) -> None:
        """Note a new claim, before it is written."""
        event = resource.status.last_event
        if event is not None and self.hearing.heard_at is None:
            # Nobody has kept when an event was heard, as after an upgrade. But there was one.
            self._become(replace(self.hearing, heard_at=event.created_at))
        turn = new_turn(resource, claim, now)
        if turn is None:
            self._open.pop(resource.metadata.name, None)
        elif is_announced(resource, turn):
            self._open.pop(resource.metadata.name, None)
            self._heard(now)
        else:
            # Its event may be late.
            self._open[resource.metadata.name] = turn

    def ended(self, resource: ManagedSession) -> None:
        """Note the end of a turn that no event had announced when it was claimed."""
        turn = self._open.pop(resource.metadata.name, None)
        if turn is None or turn.claim != resource.status.work.claim:
            return
        if is_announced(resource, turn):
            self._heard(turn.at)
            return
        self._count(announced=False)
        before = self.hearing
        self._become(before.found_by_polling(turn.at, turns=self._turns, seconds=self._seconds))
        if before.silent_since is None and self.hearing.silent_since is not None:
            message = silence_message(self.hearing)
            logger.warning("webhook events are missing", extra={"cause": message})
            self._warn(message)

    def clear(self) -> None:
        """Forget everything, because this process no longer leads."""
        self.take_over({})

    def _heard(self, at: datetime) -> None:
        self._count(announced=True)
        if self.hearing.silent_since is not None:
            logger.info("webhook events arrive again")
        self._become(self.hearing.announced(at))

    def _become(self, hearing: Hearing) -> None:
        self.hearing = hearing
        if self._reporter is not None:
            heard_at = hearing.heard_at.timestamp() if hearing.heard_at is not None else 0.0
            self._reporter.report(silent=hearing.silent_since is not None, heard_at=heard_at)

    def _count(self, *, announced: bool) -> None:
        if self._reporter is not None:
            self._reporter.count(announced=announced)


def silence_message(hearing: Hearing) -> str:
    """Describe the silence."""
    last = f" The last one that did came at {to_wire(hearing.heard_at)}." if hearing.heard_at else ""
    return (
        f"No webhook event has announced any of the newest {hearing.polled} turns, which polling has "
        f"found.{last}"
    )
