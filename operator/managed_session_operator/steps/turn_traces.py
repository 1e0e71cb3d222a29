"""Follows turns through their steps, and sends the trace of a turn once its end is recorded.

The status carries what the trace needs: its ID from the claim on, and with each write of the work the stages
that are over. So the next leader sends the same tree. No write is made for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from managed_session_api.resource import ManagedSession, TraceStatus

from managed_session_operator.domain import turn_trace
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.ports import Clock, SpanSink
from managed_session_operator.domain.remote_calls import RemoteCall, noted_calls
from managed_session_operator.domain.step import Step
from managed_session_operator.domain.turn_trace import Ended, Stages, TraceContext
from managed_session_operator.domain.worker_run import WorkerRun

_STAGES = {
    Step.CLAIM: turn_trace.CLAIM,
    Step.PREPARE: turn_trace.PREPARE,
    Step.ACKNOWLEDGE: turn_trace.ACKNOWLEDGE,
    Step.START_WORKER: turn_trace.START,
    Step.FINISH: turn_trace.PAUSE,
}
_IN_WAIT = frozenset({Step.PAUSE_WAIT, Step.RESUME_WAIT})
"""Steps whose calls belong to the wait for the user."""
_MOST_REMOTE_CALLS = 200
"""The newest calls of a turn that are kept."""
_WAITS = frozenset({Step.CLAIM, Step.PROVISION, Step.AWAIT_SLOT})
"""Steps that return a delay while no slot is free or no sandbox may be created."""
_GIVE_UP = frozenset({Step.PAUSE, Step.SUSPEND})
"""Steps after which a sandbox that was prepared for an announced run has been prepared for nothing."""
RECENT = timedelta(seconds=30)
"""A new leader sends turns again that ended no longer ago than this: the earlier one may have failed to."""


@dataclass
class _Turn:
    """What this process has seen of a resource's turn."""

    stages: Stages = field(default_factory=Stages)
    event_seen: tuple[str, datetime] | None = None
    """When this process first saw the newest event: (event ID, time)."""
    last_end: datetime | None = None
    """When the turn before ended."""
    run: WorkerRun | None = None
    """What was last known of its worker."""
    calls: deque[RemoteCall] = field(default_factory=lambda: deque(maxlen=_MOST_REMOTE_CALLS))
    """The calls that its steps have made."""


class TurnTraces:
    """Follows the turns of all resources.

    Args:
        sink: gets the spans.
        clock: the time.
        run_of: returns what this process knows of a resource's worker, for a claim.
    """

    def __init__(
        self, sink: SpanSink, clock: Clock, run_of: Callable[[str, str | None], WorkerRun | None]
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._run_of = run_of
        self._turns: dict[str, _Turn] = {}

    def forget(self, name: str) -> None:
        """Drop what is known of a resource that no longer exists."""
        self._turns.pop(name, None)

    def forget_all(self) -> None:
        """Drop everything, because this process no longer leads."""
        self._turns.clear()

    def step_begins(self, resource: ManagedSession, step: Step) -> AbstractContextManager[None]:
        """Note that a step is taken for the resource. The step has to run in the returned context."""
        turn, now = self._turn(resource), self._clock.now()
        event = resource.status.last_event
        if event is not None and (turn.event_seen is None or turn.event_seen[0] != event.id):
            turn.event_seen = (event.id, now)
        turn.run = self._run_of(resource.metadata.name, resource.status.work.claim) or turn.run
        name = _stage(resource, step)
        if step in _GIVE_UP and not claim_active(resource):
            turn.stages = Stages()
            turn.calls.clear()
        elif step in _IN_WAIT:
            name = turn_trace.wait_stage(resource)
        elif name is not None:
            turn.stages.begin(name, now)
        return noted_calls(name, turn.calls.append, self._clock.now) if name is not None else nullcontext()

    def step_ended(self, resource: ManagedSession, step: Step, delay: float | None) -> None:
        """Note that a step has succeeded, or that it has to wait for `delay` seconds.

        Args:
            resource: the resource as it was before the step.
            step: the step.
            delay: seconds until it is tried again; None if it is done.
        """
        turn, now = self._turns.get(resource.metadata.name), self._clock.now()
        if turn is None:
            # The step has ended the turn.
            return
        stages, name = turn.stages, _stage(resource, step)
        if delay is not None and step in _WAITS:
            since, _ = stages.begun.pop(name or "", (now, now))
            stages.begin(turn_trace.SLOT, now, since=since)
        elif delay is None and name is not None:
            stages.end(turn_trace.SLOT, stages.began(name) or now)
            stages.end(name, now)

    def work_fields(self, resource: ManagedSession, work: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields to write to `status.work` with what the trace needs.

        Args:
            resource: the resource before the write.
            work: the fields that are written anyway.
        """
        if "offeredAt" in work:
            trace = None if work.get("finishedAt") is not None else self._begin(resource, work)
            return {**work, "trace": trace}
        recorded = resource.status.work.trace
        if recorded is None or not TraceContext.parse(recorded.traceparent).sampled:
            return dict(work)
        turn, ended_at = self._turn(resource), work.get("finishedAt")
        if ended_at is not None:
            turn.stages.end(turn_trace.PAUSE, ended_at)
        since = resource.status.work.awaiting_user_since
        if since is not None and "awaitingUserSince" in work and work["awaitingUserSince"] is None:
            turn.stages.note(turn_trace.wait_stage(resource), since, ended_at or self._clock.now())
        if ended_at is None and all(stage.name != turn_trace.WEBHOOK for stage in recorded.stages):
            self._note_announcement(resource, turn)
        if not turn.stages.over:
            return dict(work)
        merged = turn.stages.merged(recorded.stages)
        return {**work, "trace": {"stages": [stage.to_json() for stage in merged]}}

    def _begin(self, resource: ManagedSession, work: Mapping[str, Any]) -> dict[str, Any]:
        """Begin the trace of a claim."""
        turn, now = self._turn(resource), self._clock.now()
        turn.last_end, turn.run = resource.status.work.finished_at, None
        while turn.calls and not _after(turn.calls[0].ended_at, turn.last_end):
            turn.calls.popleft()
        context = TraceContext.new(resource.metadata.uid, work["claim"])
        context = replace(context, sampled=self._sink.sampled(context.trace_id))
        stages = turn.stages
        stages.end(turn_trace.SLOT, stages.began(turn_trace.CLAIM) or now)
        self._note_announcement(resource, turn)
        before = resource.status.work.trace
        earlier = before.stages if before is not None else []
        recent = [
            each
            for each in stages.over.values()
            if _after(each.ended_at, turn.last_end) and each not in earlier
        ]
        stages.over = {each.name: each for each in recent}
        wanted = [each.to_json() for each in recent] if context.sampled else []
        return {"traceparent": context.traceparent(), "stages": wanted or None}

    def _note_announcement(self, resource: ManagedSession, turn: _Turn) -> None:
        """Note the event that announced the turn. It may have come after the work was offered."""
        event, seen = resource.status.last_event, turn.event_seen
        if event is None or seen is None or seen[0] != event.id:
            return
        until = turn.stages.began(turn_trace.CLAIM)
        for stage in turn_trace.announcement(event, seen[1], turn.last_end, until):
            turn.stages.over.setdefault(stage.name, stage)

    def written(self, before: ManagedSession, after: ManagedSession) -> None:
        """Send the trace if the write has recorded the turn's end, or a claim that supersedes the turn's."""
        was, now_is = before.status.work, after.status.work
        if was.trace is None or was.finished_at is not None:
            return
        if now_is.trace is None or now_is.trace.traceparent != was.trace.traceparent:
            self._send(before, was.trace, self._clock.now(), None)
        elif now_is.finished_at is not None:
            run = self._run_of(after.metadata.name, now_is.claim) or self._turn(after).run
            self._send(after, now_is.trace, now_is.finished_at, run)
            self.forget(after.metadata.name)

    def deleted(self, resource: ManagedSession) -> None:
        """Send the trace of a turn that ends because its resource is deleted."""
        work = resource.status.work
        if work.trace is not None and work.finished_at is None:
            self._send(resource, work.trace, self._clock.now(), self._turn(resource).run)

    def took_over(self, resource: ManagedSession) -> None:
        """Send the trace of a turn that ended just before this process began to lead.

        The earlier leader may have died before it had sent it. If not, the spans are the same again.
        """
        work = resource.status.work
        if work.trace is None or work.finished_at is None or self._clock.now() - work.finished_at > RECENT:
            return
        self._send(resource, work.trace, work.finished_at, None)

    def _send(
        self, resource: ManagedSession, trace: TraceStatus, ended_at: datetime, run: WorkerRun | None
    ) -> None:
        context = TraceContext.parse(trace.traceparent)
        if context.sampled:
            turn = self._turns.get(resource.metadata.name)
            calls = tuple(turn.calls) if turn is not None else ()
            spans = turn_trace.spans_of(Ended(resource, trace, ended_at, run, calls))
            self._sink.send(context.trace_id, spans)

    def _turn(self, resource: ManagedSession) -> _Turn:
        return self._turns.setdefault(resource.metadata.name, _Turn())


def _stage(resource: ManagedSession, step: Step) -> str | None:
    """Return the stage of the turn that the step is; None if it is none."""
    return turn_trace.sandbox_stage(resource) if step is Step.PROVISION else _STAGES.get(step)


def _after(time: datetime, last_end: datetime | None) -> bool:
    """Return whether something belongs to the turn that follows the one that ended then."""
    return last_end is None or time > last_end
