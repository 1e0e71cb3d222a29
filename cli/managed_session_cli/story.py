"""Merges what the resource, Events, exit records and Anthropic say of a session into one story. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from managed_session_api.conditions import ConditionType, Reason
from managed_session_api.resource import ManagedSession
from managed_session_api.times import as_utc

from managed_session_cli.cluster import Object


class Source(StrEnum):
    """Where a moment is known from."""

    RESOURCE = "resource"
    EVENT = "event"
    WORKER = "worker"
    ANTHROPIC = "anthropic"


class Kind(StrEnum):
    """What a span of time was spent on."""

    WAIT = "wait"
    WORK = "work"
    NOTE = "note"
    """Nothing: it is a moment without a length."""


@dataclass(frozen=True)
class Moment:
    """Something that happened, or that lasted.

    Attributes:
        at: when, or since when.
        source: where it is known from.
        text: what.
        until: when it was over; None for a moment without a length.
        kind: what the time was spent on.
        bad: whether it is a problem.
        open: whether it still lasts, so that `until` is the present.
        begins_turn: whether a turn begins with it, if none is under way.
        ends_turn: whether it ends the turn that is under way.
    """

    at: datetime
    source: Source
    text: str
    until: datetime | None = None
    kind: Kind = Kind.NOTE
    bad: bool = False
    open: bool = False
    begins_turn: bool = False
    ends_turn: bool = False

    @property
    def seconds(self) -> float | None:
        """How long it lasted; None for a moment without a length."""
        return max(0.0, (self.until - self.at).total_seconds()) if self.until is not None else None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        shown: dict[str, Any] = {"at": self.at.isoformat(), "source": self.source, "text": self.text}
        if self.until is not None:
            shown |= {"until": self.until.isoformat(), "seconds": self.seconds, "kind": self.kind}
        return shown | ({"open": True} if self.open else {}) | ({"problem": True} if self.bad else {})


@dataclass(frozen=True)
class Turn:
    """Moments that belong together; `number` counts what is known, from 1."""

    number: int
    moments: tuple[Moment, ...]

    @property
    def began(self) -> datetime:
        """When its first moment was."""
        return self.moments[0].at

    @property
    def ended(self) -> datetime:
        """When its last moment was over."""
        return max(each.until or each.at for each in self.moments)


def of_resource(session: ManagedSession, now: datetime) -> list[Moment]:
    """Return what the resource knows of its newest claim, and of itself."""
    status, work = session.status, session.status.work
    found = [*_waits(session, now), *_worker(session, now), *_conditions(session)]
    if created := session.metadata.creation_timestamp:
        found.append(Moment(created, Source.RESOURCE, "the resource was created"))
    if status.last_event is not None:
        text = f"webhook: {status.last_event.type}"
        found.append(Moment(status.last_event.created_at, Source.RESOURCE, text, begins_turn=True))
    if work.wait_paused_at is not None:
        until = work.wait_resumed_at or work.finished_at
        text = "the sandbox is paused while the user is awaited"
        found.append(_span(work.wait_paused_at, until, now, text, Kind.WAIT))
    recovery = status.recovery
    if recovery.suspected_at is not None:
        text = "a worker ended while the turn may not have been over"
        found.append(Moment(recovery.suspected_at, Source.RESOURCE, text, bad=True))
    found += [
        Moment(each.taken_at, Source.RESOURCE, f"snapshot {each.requested or each.name}")
        for each in status.snapshots
        if each.taken_at is not None
    ]
    if status.ended_at is not None:
        found.append(Moment(status.ended_at, Source.RESOURCE, "the session ended", ends_turn=True))
    return found


def _waits(session: ManagedSession, now: datetime) -> list[Moment]:
    """Return what the newest claim has waited for before its worker served it."""
    work, event = session.status.work, session.status.last_event
    found: list[Moment] = []
    if work.offered_at is None:
        return found
    if event is not None and event.created_at < work.offered_at:
        text = "wait until Anthropic's queue offers the work"
        found.append(_span(event.created_at, work.offered_at, now, text, Kind.WAIT))
    ready = work.acknowledged_at or work.finished_at
    text = "wait for a slot and for the sandbox"
    found.append(replace(_span(work.offered_at, ready, now, text, Kind.WAIT), begins_turn=True))
    if work.acknowledged_at is not None:
        beat = work.first_heartbeat_at or work.finished_at
        text = "the worker starts" + (f" ({work.attempts} attempts)" if work.attempts > 1 else "")
        found.append(_span(work.acknowledged_at, beat, now, text, Kind.WAIT))
    return found


def _worker(session: ManagedSession, now: datetime) -> list[Moment]:
    work = session.status.work
    found = []
    if work.first_heartbeat_at is not None:
        text = f"the worker served: {work.exit_reason}" if work.finished_at else "the worker serves"
        served = _span(work.first_heartbeat_at, work.finished_at, now, text, Kind.WORK)
        found.append(replace(served, ends_turn=work.finished_at is not None))
    if work.awaiting_user_since is not None:
        awaited = "; ".join(work.awaited_answers or ()) or "its answer"
        until = work.wait_resumed_at or work.finished_at
        found.append(_span(work.awaiting_user_since, until, now, f"wait for the user: {awaited}", Kind.WAIT))
    return found


def _conditions(session: ManagedSession) -> list[Moment]:
    """Return the conditions that report something beyond the usual, and how Ready is."""
    found = []
    for each in session.status.conditions:
        bad = each.reason not in _USUAL
        if each.type is ConditionType.READY or bad:
            text = f"{each.type}={each.status}: {each.reason}" + (f": {each.message}" if each.message else "")
            found.append(Moment(each.last_transition_time, Source.RESOURCE, text, bad=bad))
    return found


_USUAL = frozenset(
    {
        Reason.IDLE,
        Reason.RUNNING,
        Reason.PROVISIONING,
        Reason.PREPARING,
        Reason.STARTING_WORKER,
        Reason.AWAITING_CLAIM,
        Reason.AWAITING_MESSAGE,
        Reason.AWAITING_CAPACITY,
        Reason.AWAITING_USER,
        Reason.NO_SANDBOX,
        Reason.SANDBOX_RUNNING,
        Reason.SANDBOX_PAUSED,
        Reason.SANDBOX_RESUMED,
        Reason.SUSPENDED,
        Reason.SESSION_ENDED,
    }
)


def of_events(events: Iterable[Object]) -> list[Moment]:
    """Return what Kubernetes Events tell of a session."""
    found = []
    for each in events:
        first = _time(each.get("firstTimestamp") or each.get("eventTime"))
        last = _time(each.get("lastTimestamp")) or first
        if first is None:
            continue
        count = int(each.get("count") or 1)
        again = f" ({count} times until {last:%H:%M:%S})" if count > 1 and last is not None else ""
        reason = str(each.get("reason", ""))
        found.append(
            Moment(
                first,
                Source.EVENT,
                f"{reason}: {each.get('message', '')}{again}",
                bad=each.get("type") == "Warning",
                begins_turn=reason == Reason.CLAIMED,
                ends_turn=reason == Reason.WORKER_FINISHED,
            )
        )
    return found


def of_exit_record(record: Mapping[str, Any]) -> list[Moment]:
    """Return what the record of a worker's end tells."""
    at = _time(record.get("finishedAt"))
    if at is None:
        return []
    reason, message = record.get("reason", "unknown"), record.get("message")
    counts = f"{record.get('toolCalls', 0)} tool calls, {record.get('toolErrors', 0)} with errors"
    text = f"exit record: {reason}" + (f": {message}" if message else "") + f" ({counts})"
    return [Moment(at, Source.WORKER, text)]


def of_session_events(events: Sequence[Any], now: datetime) -> list[Moment]:
    """Return what Anthropic's events of a session tell, without the content of any of them.

    Args:
        events: as Anthropic's SDK returns them, oldest first.
        now: the present, for what still lasts.
    """
    ends = {
        getattr(each, field): each.processed_at
        for each in events
        for field in _ANSWERED_BY
        if getattr(each, field, None) and getattr(each, "processed_at", None)
    }
    found = []
    for each in events:
        at = getattr(each, "processed_at", None)
        kind = str(each.type)
        if at is None:
            if kind == "user.message":
                found.append(Moment(now, Source.ANTHROPIC, "a message that the agent has not read yet"))
            continue
        if kind.endswith(("tool_use", "request_start")):
            text = f"tool {each.name}" if hasattr(each, "name") else "model request"
            span = _span(as_utc(at), ends.get(each.id), now, text, Kind.WORK)
            found.append(replace(span, source=Source.ANTHROPIC))
        elif kind in _TOLD:
            found.append(_told(each, kind, as_utc(at)))
    return found


_ANSWERED_BY = ("tool_use_id", "custom_tool_use_id", "mcp_tool_use_id", "model_request_start_id")
_TOLD = {
    "user.message": "message of the user",
    "user.interrupt": "interrupt",
    "user.tool_confirmation": "the user confirms or denies a call",
    "agent.message": "answer of the agent",
    "session.status_running": "session running",
    "session.status_idle": "session idle",
    "session.status_rescheduled": "session rescheduled",
    "session.status_terminated": "session terminated",
    "session.error": "error",
}


def _told(event: Any, kind: str, at: datetime) -> Moment:
    stop = getattr(getattr(event, "stop_reason", None), "type", "")
    error = getattr(getattr(event, "error", None), "type", "")
    text = _TOLD[kind] + (f": {stop or error}" if stop or error else "")
    ends = kind == "session.status_terminated" or (
        kind == "session.status_idle" and stop != "requires_action"
    )
    return Moment(
        at,
        Source.ANTHROPIC,
        text,
        bad=kind == "session.error",
        begins_turn=kind == "user.message",
        ends_turn=ends,
    )


def turns(moments: Iterable[Moment]) -> list[Turn]:
    """Sort moments by time, and divide them where a turn begins after another has ended."""
    parts: list[list[Moment]] = [[]]
    ended: datetime | None = None
    for each in sorted(moments, key=lambda moment: (moment.at, moment.until or moment.at)):
        if each.begins_turn and ended is not None and each.at >= ended:
            parts.append([])
            ended = None
        parts[-1].append(each)
        if each.ends_turn:
            ended = max(filter(None, (ended, each.until or each.at)))
    return [Turn(number, tuple(part)) for number, part in enumerate(filter(None, parts), 1)]


def _span(at: datetime, until: datetime | None, now: datetime, text: str, kind: Kind) -> Moment:
    end = as_utc(until) if until is not None else now
    return Moment(at, Source.RESOURCE, text, max(at, end), kind, open=until is None)


def _time(value: Any) -> datetime | None:
    try:
        return as_utc(datetime.fromisoformat(str(value)))
    except ValueError:
        return None
