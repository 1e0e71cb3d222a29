"""Finds out a session's turns from its Kubernetes Events and its status, for the bars of its timeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from managed_session_api.conditions import Reason

from managed_session_dashboard.rows import seconds
from managed_session_dashboard.session_events import SessionEvent

_SAME_SECONDS = 2.0
"""Times of Events are whole seconds, and an Event is posted after what it reports."""


@dataclass
class Turn:
    """One claim, from its offer to the end of its worker. Times are seconds since the epoch, or None."""

    claimed: float | None = None
    sandbox: float | None = None
    """When its sandbox was ready."""
    started: float | None = None
    """When its worker had sent its first heartbeat."""
    finished: float | None = None
    summary: str = ""
    warning: bool = False

    @property
    def begin(self) -> float:
        """The earliest time that is known."""
        return min(t for t in (self.claimed, self.sandbox, self.started, self.finished) if t is not None)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def turns_of(events: Iterable[SessionEvent], status: Mapping[str, Any]) -> list[Turn]:
    """Return the turns that are known, oldest first. The newest has the exact times of the status."""
    turns: list[Turn] = []
    for event in events:
        if event.reason == Reason.CLAIMED:
            turns.append(Turn(claimed=event.at))
            continue
        if event.reason not in _MILESTONES:
            continue
        if not turns or turns[-1].finished is not None:
            # Its first Events are no longer there.
            turns.append(Turn())
        _note(turns[-1], event)
    turns = [turn for turn in turns if turn.started is not None or turn.claimed is not None]
    newest = _newest(status)
    if newest is not None:
        _merge(turns, newest)
    return turns


_MILESTONES = frozenset(
    {
        Reason.SANDBOX_CREATED,
        Reason.SANDBOX_RESUMED,
        Reason.SANDBOX_RESTORED,
        Reason.WORKER_STARTED,
        Reason.WORKER_FINISHED,
    }
)


def _note(turn: Turn, event: SessionEvent) -> None:
    if event.reason == Reason.WORKER_FINISHED:
        turn.finished, turn.summary, turn.warning = event.at, event.message, event.warning
    elif event.reason == Reason.WORKER_STARTED:
        turn.started = turn.started if turn.started is not None else event.at
    elif turn.started is None:
        turn.sandbox = event.at


def _newest(status: Mapping[str, Any]) -> Turn | None:
    work = status.get("work") or {}
    offered = seconds(work.get("offeredAt"))
    if offered is None:
        return None
    return Turn(
        claimed=offered,
        sandbox=seconds(work.get("acknowledgedAt")),
        started=seconds(work.get("firstHeartbeatAt")),
        finished=seconds(work.get("finishedAt")),
        summary=str(work.get("exitReason") or ""),
    )


def _merge(turns: list[Turn], newest: Turn) -> None:
    """Replace the last turn by `newest` if they are the same one; else add it."""
    last = turns[-1] if turns else None
    same = last is not None and (
        last.finished is None
        or (newest.finished is not None and abs(last.finished - newest.finished) <= _SAME_SECONDS)
    )
    if last is not None and same:
        newest.summary, newest.warning = last.summary or newest.summary, last.warning
        turns[-1] = newest
    elif last is None or last.begin <= newest.begin:
        turns.append(newest)
