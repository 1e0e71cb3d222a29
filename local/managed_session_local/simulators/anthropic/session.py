"""One session: its state, its event log and the streams attached to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from .identifiers import new_id, now, rfc3339

Status = Literal["idle", "running", "rescheduling", "terminated"]


@dataclass
class ToolCall:
    """A tool call that the agent waits for.

    Attributes:
        confirmed: False while a person's confirmation is outstanding.
        result: the event that answered it, once there is one.
    """

    event_id: str
    custom: bool
    confirmed: bool
    result: asyncio.Future[dict[str, Any]]


class Stream:
    """One attached event stream: a queue of events; None ends it."""

    def __init__(self, *, worker: bool) -> None:
        self.worker = worker
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()


@dataclass
class Session:
    """A session (`BetaManagedAgentsSession`) and everything that happened in it.

    Attributes:
        waiting: tool calls in ``requires_action``, by event ID.
        inbox: user messages that no turn has taken up yet.
        announce: called with a webhook event type when something happened that webhooks tell.
    """

    id: str
    environment_id: str
    agent: dict[str, Any]
    announce: Callable[[Session, str], None]
    title: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    resources: list[dict[str, Any]] = field(default_factory=list)
    vault_ids: list[str] = field(default_factory=list)
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)
    archived_at: datetime | None = None
    status: Status = "idle"
    events: list[dict[str, Any]] = field(default_factory=list)
    event_times: list[datetime] = field(default_factory=list)
    streams: set[Stream] = field(default_factory=set)
    waiting: dict[str, ToolCall] = field(default_factory=dict)
    inbox: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the wire form with every field that the SDK's type requires."""
        return {
            "type": "session",
            "id": self.id,
            "environment_id": self.environment_id,
            "agent": self.agent,
            "title": self.title,
            "metadata": self.metadata,
            "resources": self.resources,
            "vault_ids": self.vault_ids,
            "created_at": rfc3339(self.created_at),
            "updated_at": rfc3339(self.updated_at),
            "archived_at": None if self.archived_at is None else rfc3339(self.archived_at),
            "status": self.status,
            "outcome_evaluations": [],
            "stats": {"active_seconds": 0.0, "duration_seconds": (now() - self.created_at).total_seconds()},
            "usage": {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0},
            "budget": None,
            "deployment_id": None,
        }

    def append(self, event: dict[str, Any], *, processed: bool = True) -> dict[str, Any]:
        """Add an event to the log under a fresh ID and send it to every stream; return it."""
        at = now()
        recorded = {**event, "id": new_id("sevt"), "processed_at": rfc3339(at) if processed else None}
        self.events.append(recorded)
        self.event_times.append(at)
        self.updated_at = at
        for stream in self.streams:
            stream.events.put_nowait(recorded)
        return recorded

    def mark_processed(self, event: dict[str, Any]) -> None:
        """Set the time at which the agent took up a queued event."""
        if event["processed_at"] is None:
            event["processed_at"] = rfc3339(now())

    def run(self) -> None:
        """Go to ``running``, unless there already."""
        if self.status != "running":
            self.status = "running"
            self.append({"type": "session.status_running"})
            self.announce(self, "session.status_run_started")

    def require_action(self) -> None:
        """Go idle (again) with the calls that are still open."""
        self._idle({"type": "requires_action", "event_ids": list(self.waiting)})

    def end_turn(self, stop_reason: str = "end_turn") -> None:
        """Go idle at the end of a turn."""
        self._idle({"type": stop_reason})

    def _idle(self, stop_reason: dict[str, Any]) -> None:
        self.status = "idle"
        self.append({"type": "session.status_idle", "stop_reason": stop_reason})
        self.announce(self, "session.status_idled")

    def reschedule(self) -> None:
        """Go to ``rescheduling``: a passing error, the agent will run again."""
        self.status = "rescheduling"
        self.append({"type": "session.status_rescheduled"})
        self.announce(self, "session.status_rescheduled")

    def terminate(self) -> None:
        """End the session for good; a terminated one stays as it is."""
        self.drop_waiting()
        self.inbox.clear()
        if self.status != "terminated":
            self.status = "terminated"
            self.append({"type": "session.status_terminated"})
            self.announce(self, "session.status_terminated")

    def deleted(self) -> None:
        """Tell every stream that the session is gone, and close them."""
        self.drop_waiting()
        self.append({"type": "session.deleted"})
        self.announce(self, "session.deleted")
        self.sever()

    def drop_waiting(self) -> None:
        """Forget the open tool calls; their results will be unexpected."""
        for call in self.waiting.values():
            call.result.cancel()
        self.waiting.clear()

    def sever(self) -> int:
        """Close every attached stream; return how many there were."""
        for stream in self.streams:
            stream.events.put_nowait(None)
        return len(self.streams)
