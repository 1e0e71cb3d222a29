"""Records for tests and benchmarks: every call, and what happened in each session."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from managed_session_devkit.simulators.anthropic.work_item import WorkItem
from managed_session_devkit.simulators.anthropic.work_queue import Change
from managed_session_devkit.simulators.common.call_log import CallLog


@dataclass
class Turn:
    """The times of one message's turn, in seconds since the epoch. None: it has not happened."""

    message_id: str
    sent_at: float
    worker_live: bool
    offered_at: float | None = None
    acked_at: float | None = None
    heartbeat_at: float | None = None
    tool_used_at: float | None = None
    result_at: float | None = None
    answered_at: float | None = None
    interrupted_at: float | None = None

    @property
    def open(self) -> bool:
        """Whether it is neither answered nor interrupted."""
        return self.answered_at is None and self.interrupted_at is None

    def as_json(self) -> dict[str, Any]:
        """Return the times and the derived latencies in milliseconds."""

        def since(at: float | None) -> float | None:
            return None if at is None else round((at - self.sent_at) * 1000, 3)

        return {
            **vars(self),
            "to_offer_ms": since(self.offered_at),
            "to_ack_ms": since(self.acked_at),
            "to_heartbeat_ms": since(self.heartbeat_at),
            "to_tool_use_ms": since(self.tool_used_at),
            "to_result_ms": since(self.result_at),
            "to_answer_ms": since(self.answered_at),
        }


@dataclass
class SessionRecord:
    """The counters and the timeline of one session.

    Attributes:
        counts: see `Ledger.count_names`.
        worker_streams: number of workers' event streams that are open now.
    """

    counts: Counter[str] = field(default_factory=Counter)
    turns: list[Turn] = field(default_factory=list)
    timeline: list[dict[str, Any]] = field(default_factory=list)
    results: Counter[str] = field(default_factory=Counter)
    worker_streams: int = 0


class Ledger:
    """The record of a run. Times are seconds since the epoch."""

    count_names = (
        "messages",
        "turns_answered",
        "turns_interrupted",
        "work_enqueued",
        "work_offered",
        "work_acked",
        "leases",
        "lease_conflicts",
        "leases_lapsed",
        "work_stopped",
        "work_stopped_without_heartbeat",
        "worker_streams_overlapping",
        "results",
        "results_repeated",
        "results_rejected",
        "results_without_lease",
        "script_mismatches",
    )

    def __init__(self, capacity: int) -> None:
        self._log = CallLog(capacity)
        self.deliveries: deque[dict[str, Any]] = deque(maxlen=capacity)
        self.mismatches: list[dict[str, Any]] = []
        self.faults_applied: Counter[str] = Counter()
        self.healthchecks: Counter[str] = Counter()
        self._sessions: dict[str, SessionRecord] = {}

    def clear(self) -> None:
        """Forget everything except the streams that are open now."""
        self._log.clear()
        self.deliveries.clear()
        self.mismatches.clear()
        self.faults_applied.clear()
        self.healthchecks.clear()
        kept = {
            name: record.worker_streams for name, record in self._sessions.items() if record.worker_streams
        }
        self._sessions = {name: SessionRecord(worker_streams=streams) for name, streams in kept.items()}

    def of(self, session_id: str) -> SessionRecord:
        """Return a session's record."""
        return self._sessions.setdefault(session_id, SessionRecord())

    def note(self, session_id: str, kind: str, **fields: Any) -> None:
        """Add an entry to a session's timeline."""
        self.of(session_id).timeline.append({"at": time.time(), "kind": kind, **fields})

    def _count(self, session_id: str, name: str, **fields: Any) -> None:
        self.of(session_id).counts[name] += 1
        self.note(session_id, name, **fields)

    def _stamp(self, session_id: str, attribute: str) -> None:
        for turn in self.of(session_id).turns:
            if turn.open and getattr(turn, attribute) is None:
                setattr(turn, attribute, time.time())

    def message_sent(self, session_id: str, message_id: str, *, worker_live: bool) -> None:
        """Record that a user message was accepted."""
        self.of(session_id).turns.append(Turn(message_id, time.time(), worker_live))
        self._count(session_id, "messages", message_id=message_id)

    def turn_answered(self, session_id: str, message_id: str) -> None:
        """Record that the agent finished a message's turn."""
        for turn in self.of(session_id).turns:
            if turn.message_id == message_id:
                turn.answered_at = time.time()
        self._count(session_id, "turns_answered", message_id=message_id)

    def turn_interrupted(self, session_id: str) -> None:
        """Record that the current turn ended without an answer."""
        for turn in self.of(session_id).turns:
            if turn.open:
                turn.interrupted_at = time.time()
                break
        self._count(session_id, "turns_interrupted")

    def tool_used(self, session_id: str, tool_use_id: str, tool: str) -> None:
        """Record that the agent requested a tool call."""
        self._stamp(session_id, "tool_used_at")
        self.note(session_id, "tool_use", tool_use_id=tool_use_id, tool=tool)

    def result_posted(self, session_id: str, tool_use_id: str, *, accepted: bool, holds_lease: bool) -> None:
        """Record that a tool result was posted."""
        record = self.of(session_id)
        record.results[tool_use_id] += 1
        if record.results[tool_use_id] > 1:
            self._count(session_id, "results_repeated", tool_use_id=tool_use_id)
        if not holds_lease:
            self._count(session_id, "results_without_lease", tool_use_id=tool_use_id)
        if accepted:
            self._stamp(session_id, "result_at")
        self._count(session_id, "results" if accepted else "results_rejected", tool_use_id=tool_use_id)

    def script_mismatch(self, session_id: str, reason: str, **fields: Any) -> None:
        """Record that a tool result was not what its script expects."""
        self.mismatches.append({"at": time.time(), "session_id": session_id, "reason": reason, **fields})
        self._count(session_id, "script_mismatches", reason=reason)

    def stream_opened(self, session_id: str, *, worker: bool) -> None:
        """Record that an event stream was opened."""
        record = self.of(session_id)
        self.note(session_id, "stream_opened", worker=worker)
        if worker:
            record.worker_streams += 1
            if record.worker_streams > 1:
                self._count(session_id, "worker_streams_overlapping", streams=record.worker_streams)

    def stream_closed(self, session_id: str, *, worker: bool) -> None:
        """Record that an event stream ended."""
        record = self.of(session_id)
        self.note(session_id, "stream_closed", worker=worker)
        if worker and record.worker_streams:
            record.worker_streams -= 1

    def work_changed(self, item: WorkItem, change: Change) -> None:
        """Record a change of a work item."""
        if item.data_type != "session":
            self.healthchecks[change] += 1
            return
        session_id = item.data_id
        stamps = {"offered": "offered_at", "acked": "acked_at", "claimed": "heartbeat_at"}
        if change in stamps:
            self._stamp(session_id, stamps[change])
        counted = {
            "enqueued": "work_enqueued",
            "offered": "work_offered",
            "acked": "work_acked",
            "claimed": "leases",
            "conflict": "lease_conflicts",
            "lapsed": "leases_lapsed",
            "stopped": "work_stopped",
        }
        if change == "stopped" and item.acknowledged_at is not None and item.latest_heartbeat_at is None:
            self._count(session_id, "work_stopped_without_heartbeat")
        if change in counted:
            self._count(session_id, counted[change], work_id=item.id, offers=item.offers)
        else:
            self.note(session_id, f"work_{change}", work_id=item.id)

    def call(self, entry: dict[str, Any]) -> None:
        """Record an HTTP call."""
        self._log.add(entry)

    def delivery(self, entry: dict[str, Any]) -> None:
        """Record a webhook delivery attempt, or why there was none."""
        self.deliveries.append(entry)

    def session_report(self, session_id: str) -> dict[str, Any]:
        """Return one session's counters, turns and timeline."""
        record = self.of(session_id)
        return {
            **self._summary(record),
            "timeline": record.timeline,
            "deliveries": [entry for entry in self.deliveries if entry["object_id"] == session_id],
        }

    def _summary(self, record: SessionRecord) -> dict[str, Any]:
        return {
            "counts": {name: record.counts[name] for name in self.count_names},
            "turns": [turn.as_json() for turn in record.turns],
            "worker_streams": record.worker_streams,
        }

    def report(self, *, calls: bool) -> dict[str, Any]:
        """Return the whole ledger. Without `calls`, omit its calls and deliveries."""
        totals: Counter[str] = Counter()
        for record in self._sessions.values():
            totals.update(record.counts)
        return {
            "calls": list(self._log.calls) if calls else [],
            "deliveries": list(self.deliveries) if calls else [],
            "operations": {name: dict(statuses) for name, statuses in self._log.statuses().items()},
            "totals": {name: totals[name] for name in self.count_names},
            "sessions": {name: self._summary(record) for name, record in self._sessions.items()},
            "script_mismatches": self.mismatches,
            "faults_applied": dict(self.faults_applied),
            "healthchecks": dict(self.healthchecks),
        }
