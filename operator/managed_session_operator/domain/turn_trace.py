"""Makes the trace of a turn: which spans it has, and their IDs. Pure.

All IDs are derived from the resource's UID and the claim. So whoever sends spans of a turn, and however
often, they form one tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from managed_session_api.events import RUN_STARTED
from managed_session_api.resource import EventStatus, ManagedSession, StageStatus, TraceStatus
from managed_session_worker.protocol import lease_given_back

from managed_session_operator.domain.remote_calls import RemoteCall
from managed_session_operator.domain.span import Attributes, Span
from managed_session_operator.domain.worker_run import CallReport, ExitRecord, WorkerRun, call_report

TURN = "turn"
WEBHOOK = "webhook delivery"
ANNOUNCED = "announced run"
SLOT = "slot wait"
CLAIM = "claim"
CREATE = "create sandbox"
RESUME = "resume sandbox"
PREPARE = "prepare sandbox"
ACKNOWLEDGE = "acknowledge"
START = "start worker"
HEARTBEAT = "first heartbeat"
WORKER = "worker"
CALL = "execute_tool"
PAUSE = "pause sandbox"
WAIT = "wait for user"

_MOST_WAITS = 8
"""Waits of a turn that are recorded: the first ones, and the newest. The CRD limits the stages."""

_SAMPLED = 1


@dataclass(frozen=True)
class TraceContext:
    """The IDs of a turn's trace."""

    trace_id: int
    sampled: bool

    @classmethod
    def new(cls, uid: str, claim: str) -> TraceContext:
        """Return the context of a claim's turn. Whether it is sampled is decided later."""
        return cls(int.from_bytes(_digest(f"{uid}/{claim}")[:16], "big") or 1, sampled=False)

    @classmethod
    def parse(cls, traceparent: str) -> TraceContext:
        """Read what `traceparent` wrote."""
        _, trace_id, _, flags = traceparent.split("-")
        return cls(int(trace_id, 16), bool(int(flags, 16) & _SAMPLED))

    def span_id(self, *names: str) -> int:
        """Return the ID of the span with these names."""
        return int.from_bytes(_digest("/".join((f"{self.trace_id:032x}", *names)))[:8], "big") or 1

    def traceparent(self, name: str = TURN) -> str:
        """Return the context of the span in W3C's form."""
        return f"00-{self.trace_id:032x}-{self.span_id(name):016x}-{int(self.sampled):02x}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def worker_traceparent(resource: ManagedSession) -> str | None:
    """Return the context that a worker of the resource's claim gets; None without a trace."""
    trace = resource.status.work.trace
    return TraceContext.parse(trace.traceparent).traceparent(WORKER) if trace is not None else None


def exemplar_of(resource: ManagedSession) -> dict[str, str] | None:
    """Return the exemplar for a measurement of the resource's turn; None without a sampled trace."""
    trace = resource.status.work.trace
    context = TraceContext.parse(trace.traceparent) if trace is not None else None
    return {"trace_id": f"{context.trace_id:032x}"} if context is not None and context.sampled else None


@dataclass(frozen=True)
class Ended:
    """A turn that is over.

    Attributes:
        resource: the resource as its end was recorded.
        trace: what the resource recorded of its trace.
        ended_at: when it was over.
        run: what this process knows of its worker, if anything.
        calls: the calls to Anthropic and E2B that this process has made for it.
    """

    resource: ManagedSession
    trace: TraceStatus
    ended_at: datetime
    run: WorkerRun | None = None
    calls: tuple[RemoteCall, ...] = ()


def spans_of(turn: Ended) -> list[Span]:
    """Return the spans of a turn, the root first, and each parent before its children."""
    context = TraceContext.parse(turn.trace.traceparent)
    root_id = context.span_id(TURN)
    last = {stage.name: stage for stage in turn.trace.stages}
    children = [
        Span(stage.name, context.span_id(stage.name), root_id, stage.started_at, stage.ended_at)
        for stage in last.values()
        if not _is_wait(stage.name)
    ]
    children += _heartbeat(context, root_id, turn, last)
    children += _worker(context, root_id, turn, last)
    children += _waits(context, turn, last, children)
    children += _remote_calls(context, turn.calls, children)
    work = turn.resource.status.work
    end = max([turn.ended_at, *(span.end for span in children)])
    # An offer's time is when its poll was sent, often long before there was anything to do.
    start = min((span.start for span in children), default=min(work.offered_at or end, end))
    reason = work.exit_reason
    error = reason if reason is not None and not _orderly(turn.resource) else None
    root = Span(TURN, root_id, None, start, end, _attributes(turn), error)
    depth = {root_id: 0}
    for span in children:
        depth[span.span_id] = depth[span.parent_id or root_id] + 1
    return [root, *sorted(children, key=lambda span: (depth[span.span_id], span.start, span.end))]


def _orderly(resource: ManagedSession) -> bool:
    work = resource.status.work
    return lease_given_back(work.exit_reason) or work.serving_late_since is not None


def _attributes(turn: Ended) -> Attributes:
    """Return what the root says about the turn. IDs and counts only."""
    resource, status, work = turn.resource, turn.resource.status, turn.resource.status.work
    record = turn.run.record if turn.run is not None else None
    known: dict[str, str | int | None] = {
        "gen_ai.provider.name": "anthropic",
        "gen_ai.conversation.id": resource.spec.session_id,
        "gen_ai.agent.id": resource.spec.agent_id,
        "managed_sessions.environment.id": resource.spec.environment_id,
        "managed_sessions.namespace": resource.metadata.namespace,
        "managed_sessions.resource": resource.metadata.name,
        "managed_sessions.class": status.session_class.name if status.session_class is not None else None,
        "managed_sessions.sandbox.id": status.sandbox.id,
        "managed_sessions.work.id": work.id,
        "managed_sessions.claim": work.claim,
        "managed_sessions.turn": status.turns,
        "managed_sessions.worker_starts": work.attempts,
        "managed_sessions.exit_reason": work.exit_reason,
        "managed_sessions.stop_reason": work.stop_reason,
        "managed_sessions.tool_calls": record.tool_calls if record is not None else None,
        "managed_sessions.tool_errors": record.tool_errors if record is not None else None,
    }
    return {key: value for key, value in known.items() if value is not None}


def _heartbeat(
    context: TraceContext, root_id: int, turn: Ended, stages: Mapping[str, StageStatus]
) -> Iterator[Span]:
    """Return the span from the worker's start to its first heartbeat."""
    work, started = turn.resource.status.work, stages.get(START)
    if work.first_heartbeat_at is not None:
        since = started.ended_at if started is not None else work.started_at
        if since is not None:
            until = max(since, work.first_heartbeat_at)
            yield Span(HEARTBEAT, context.span_id(HEARTBEAT), root_id, since, until)


def _worker(
    context: TraceContext, root_id: int, turn: Ended, stages: Mapping[str, StageStatus]
) -> Iterator[Span]:
    """Return the span of the worker, with those of its calls."""
    work, started, paused = turn.resource.status.work, stages.get(START), stages.get(PAUSE)
    since = started.ended_at if started is not None else (work.first_heartbeat_at or work.started_at)
    if since is None or work.attempts == 0:
        return
    until = max(since, paused.started_at if paused is not None else turn.ended_at)
    worker_id = context.span_id(WORKER)
    yield Span(WORKER, worker_id, root_id, since, until)
    if turn.run is None:
        return
    began = started.started_at if started is not None else since
    shift = _clock_shift(turn.run.record, began, work.first_heartbeat_at, until)
    for call, error in _calls(turn.run):
        call_began = min(max(call.started_at + shift, since), until)
        yield Span(
            f"{CALL} {call.tool}",
            context.span_id(CALL, call.id),
            worker_id,
            call_began,
            min(max(call.ended_at + shift, call_began), until),
            {
                "gen_ai.operation.name": CALL,
                "gen_ai.tool.name": call.tool,
                "gen_ai.tool.call.id": call.id,
            },
            error,
        )


def _waits(
    context: TraceContext, turn: Ended, stages: Mapping[str, StageStatus], spans: Iterable[Span]
) -> Iterator[Span]:
    """Return the spans of the waits for the session's user, below that of the worker that waits."""
    worker = next((span for span in spans if span.name == WORKER), None)
    if worker is None:
        return
    waits = {name: (stage.started_at, stage.ended_at) for name, stage in stages.items() if _is_wait(name)}
    since = turn.resource.status.work.awaiting_user_since
    if since is not None:
        # It ends with the turn.
        waits[wait_stage(turn.resource)] = (since, turn.ended_at)
    for name, (began, ended) in waits.items():
        start = min(max(began, worker.start), worker.end)
        end = min(max(ended, start), worker.end)
        yield Span(WAIT, context.span_id(name), worker.span_id, start, end)


def _remote_calls(
    context: TraceContext, calls: Iterable[RemoteCall], spans: Iterable[Span]
) -> Iterator[Span]:
    """Return the spans of calls that lie within their stage. Others belong to a try that was given up."""
    known = {span.span_id: span for span in spans}
    for number, call in enumerate(calls):
        parent = known.get(context.span_id(call.stage))
        if parent is None or call.started_at < parent.start or call.ended_at > parent.end:
            continue
        yield Span(
            f"{call.service} {call.operation}",
            context.span_id(call.stage, call.service, call.operation, str(number)),
            parent.span_id,
            call.started_at,
            max(call.started_at, call.ended_at),
            {"peer.service": call.service.lower()},
            call.error,
            client=True,
        )


def _calls(run: WorkerRun) -> Iterator[tuple[CallReport, str | None]]:
    """Return the worker's calls, each with the kind of its error: those that ended, and those cut off."""
    for call in run.calls.values():
        yield call, "tool_error" if call.is_error else None
    record = run.record
    if record is None:
        return
    for unfinished in record.calls:
        cut = call_report({**unfinished, "endedAt": record.finished_at})
        if cut is not None and cut.id not in run.calls:
            yield cut, "worker_ended"


def _clock_shift(
    record: ExitRecord | None, began: datetime, heartbeat: datetime | None, ended: datetime
) -> timedelta:
    """Return what to add to the sandbox's times, if its clock is certainly wrong.

    The worker cannot have started before it was asked to, nor can its heartbeat and its end have come after
    this process heard of them.
    """
    if record is None:
        return timedelta()
    started_at, beat_at, finished_at = (
        _time(record.started_at),
        _time(record.first_heartbeat_at),
        _time(record.finished_at),
    )
    least = [began - started_at] if started_at is not None else []
    most = [
        heard - happened
        for heard, happened in ((heartbeat, beat_at), (ended, finished_at))
        if heard is not None and happened is not None
    ]
    shift = max([timedelta(), *least])
    return min([shift, *most])


def _time(text: str | None) -> datetime | None:
    """Return a time that a sandbox has reported; None if it makes no sense."""
    try:
        return datetime.fromisoformat(text) if text is not None and text.endswith("Z") else None
    except ValueError:
        return None


@dataclass
class Stages:
    """What this process has seen of a turn since the status was last written."""

    begun: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    """When a stage began, and when it was last tried."""
    over: dict[str, StageStatus] = field(default_factory=dict)

    def begin(self, name: str, now: datetime, *, since: datetime | None = None) -> None:
        """Note that a stage begins. One that was tried shortly before goes on, as with a repeated step."""
        began, tried = self.begun.get(name, (since or now, now))
        self.begun[name] = (began if now - tried < _PATIENCE else since or now, now)

    def began(self, name: str) -> datetime | None:
        """Return when a stage began that is not over."""
        return self.begun[name][0] if name in self.begun else None

    def end(self, name: str, now: datetime) -> None:
        """Note that a stage is over, if it has begun."""
        began = self.began(name)
        if began is not None:
            del self.begun[name]
            self.note(name, began, now)

    def note(self, name: str, began: datetime, ended: datetime) -> None:
        """Note a stage that is over."""
        self.over[name] = StageStatus(name=name, started_at=began, ended_at=max(began, ended))

    def merged(self, recorded: Iterable[StageStatus]) -> list[StageStatus]:
        """Return the recorded stages with those that are over since."""
        return [*{**{stage.name: stage for stage in recorded}, **self.over}.values()]


def sandbox_stage(resource: ManagedSession) -> str:
    """Return the stage in which the resource's sandbox gets to run."""
    sandbox = resource.status.sandbox
    return CREATE if sandbox.id is None or sandbox.replaces is not None else RESUME


def wait_stage(resource: ManagedSession) -> str:
    """Return the stage of the turn's present, or next, wait for the session's user."""
    trace = resource.status.work.trace
    recorded = sum(_is_wait(stage.name) for stage in trace.stages) if trace is not None else 0
    return f"{WAIT} {min(recorded + 1, _MOST_WAITS)}"


def _is_wait(stage: str) -> bool:
    return stage.startswith(WAIT)


def announcement(
    event: EventStatus, seen_at: datetime, last_end: datetime | None, claimed_at: datetime | None
) -> Iterator[StageStatus]:
    """Return the stages of the event that announced the turn.

    Args:
        event: the newest event.
        seen_at: when this process first saw it.
        last_end: when the turn before ended. The event of that turn announces nothing.
        claimed_at: when the work is claimed; None if that is over.
    """
    if event.type != RUN_STARTED or (last_end is not None and event.created_at <= last_end):
        return
    received = event.received_at
    # A webhook of an earlier version leaves the time of the event before.
    if received is not None and event.created_at - _CLOCK_TOLERANCE <= received <= seen_at:
        yield StageStatus(name=WEBHOOK, started_at=received, ended_at=seen_at)
    if claimed_at is not None and seen_at < claimed_at:
        yield StageStatus(name=ANNOUNCED, started_at=seen_at, ended_at=claimed_at)


_PATIENCE = timedelta(minutes=5)
"""A stage that was not tried for so long was given up."""
_CLOCK_TOLERANCE = timedelta(seconds=5)
