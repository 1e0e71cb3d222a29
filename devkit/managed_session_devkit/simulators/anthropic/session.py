"""One session: its state, its event log and its open streams."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from managed_session_devkit.simulators.anthropic.identifiers import new_id
from managed_session_devkit.simulators.anthropic.threads import Thread
from managed_session_devkit.simulators.anthropic.usage import Usage
from managed_session_devkit.simulators.common.times import now, rfc3339

Status = Literal["idle", "running", "rescheduling", "terminated"]


@dataclass
class ToolCall:
    """A tool call that the agent waits for.

    Attributes:
        confirmed: False while the call waits for a person's confirmation.
        thread: the sub-agent's thread that made the call. None: the primary thread.
        result: the event with its result, if there is one.
    """

    event_id: str
    custom: bool
    confirmed: bool
    result: asyncio.Future[dict[str, Any]]
    thread: Thread | None = None
    made_at: datetime = field(default_factory=now)

    def is_of(self, thread_id: str | None) -> bool:
        """Return whether an interrupt that names this thread (or none) ends the call."""
        return thread_id is None or (self.thread is not None and self.thread.id == thread_id)


class Announce(Protocol):
    """Notifies webhooks of an event type, and of the thread that it is about."""

    def __call__(self, session: Session, event_type: str, thread_id: str | None = None, /) -> None:
        """Notify the webhooks."""


class Stream:
    """One open event stream: a queue of events, which None ends."""

    def __init__(self, *, worker: bool) -> None:
        self.worker = worker
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.pinged, self.closed = asyncio.Event(), asyncio.Event()

    async def forget_if_dead(self) -> None:
        """End the stream if its client has vanished silently."""


@dataclass
class Session:
    """A session (`BetaManagedAgentsSession`), with everything that has happened in it.

    Attributes:
        waiting: tool calls in ``requires_action``, by event ID.
        threads: threads of sub-agents that work.
        inbox: user messages that no turn has started on.
        usage: what it has cost, and its budget.
        budget_changed: set while no budget keeps the agent from going on.
        announce: called with the type of each event that webhooks report.
    """

    id: str
    environment_id: str
    agent: dict[str, Any]
    announce: Announce
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
    threads: set[Thread] = field(default_factory=set)
    inbox: list[dict[str, Any]] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    budget_changed: asyncio.Event = field(default_factory=asyncio.Event)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form, with every field that the SDK's type requires."""
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
            "stats": {
                "active_seconds": round(self.usage.active_seconds, 3),
                "duration_seconds": (now() - self.created_at).total_seconds(),
            },
            "usage": self.usage.as_json(),
            "budget": self.usage.budget_json(),
            "deployment_id": None,
        }

    def append(self, event: dict[str, Any], *, processed: bool = True) -> dict[str, Any]:
        """Add an event to the log under a new ID, send it to every stream, and return it."""
        at = now()
        recorded = {**event, "id": new_id("sevt"), "processed_at": rfc3339(at) if processed else None}
        self.events.append(recorded)
        self.event_times.append(at)
        self.updated_at = at
        for stream in self.streams:
            stream.events.put_nowait(recorded)
        return recorded

    def mark_processed(self, event: dict[str, Any]) -> None:
        """Set the time at which the agent processed a queued event."""
        if event["processed_at"] is None:
            event["processed_at"] = rfc3339(now())

    def run(self) -> None:
        """Become ``running``, unless it is already."""
        if self.status != "running":
            self.status = "running"
            self.usage.runs()
            self.append({"type": "session.status_running"})
            self.announce(self, "session.status_run_started")

    def require_action(self) -> None:
        """Become idle (again) because of the calls that are still open."""
        self._idle({"type": "requires_action", "event_ids": list(self.waiting)})

    def end_turn(self, stop_reason: str = "end_turn") -> None:
        """Become idle at the end of a turn."""
        self._idle({"type": stop_reason})
        if stop_reason == "budget_reached":
            self.announce(self, "session.budget_reached")

    def _idle(self, stop_reason: dict[str, Any]) -> None:
        self.status = "idle"
        self.usage.rests()
        self.append(
            {"type": "session.usage", "usage": self.usage.as_json(), "budget": self.usage.budget_json()}
        )
        self.append({"type": "session.status_idle", "stop_reason": stop_reason})
        self.announce(self, "session.status_idled")

    def reschedule(self) -> None:
        """Become ``rescheduling``: after a temporary error, the agent will run again."""
        self.status = "rescheduling"
        self.usage.rests()
        self.append({"type": "session.status_rescheduled"})
        self.announce(self, "session.status_rescheduled")

    def terminate(self) -> None:
        """End the session for good. A terminated session stays as it is."""
        self.drop_waiting()
        self.inbox.clear()
        if self.status != "terminated":
            self.status = "terminated"
            self.usage.rests()
            self.append({"type": "session.status_terminated"})
            self.announce(self, "session.status_terminated")

    def deleted(self) -> None:
        """Send the session's end to every stream, and close the streams."""
        self.drop_waiting()
        self.append({"type": "session.deleted"})
        self.announce(self, "session.deleted")
        self.sever()

    def drop_waiting(self, thread_id: str | None = None) -> None:
        """Forget the open tool calls, of this thread or of all. Their results will be unexpected."""
        for call in [each for each in self.waiting.values() if each.is_of(thread_id)]:
            call.result.cancel()
            del self.waiting[call.event_id]

    def sever(self) -> int:
        """Close every open stream. Return how many there were."""
        for stream in self.streams:
            stream.events.put_nowait(None)
        return len(self.streams)
