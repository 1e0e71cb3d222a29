"""Says what the audit records of claims, tool calls, sandboxes, policies and deletions.

It records IDs, names and digests, and no content.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_worker.protocol import ExitReason

from managed_session_operator.domain.worker_run import CallReport, WorkerRun

_KNOWN_CALLS = 20_000
"""How many reported calls are remembered, because a stream that is opened again repeats some."""


class Sink(Protocol):
    """Where records go."""

    def append(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write a record."""


class AuditTrail:
    """Follows what this process does, and writes it down.

    Args:
        sink: gets the records.
        find: returns the resource of this name.
    """

    def __init__(self, sink: Sink, find: Callable[[str], ManagedSession | None]) -> None:
        self._sink = sink
        self._find = find
        self._calls: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def leads(self) -> None:
        """Record that this process leads."""
        self._sink.append("LeaderStarted", {})

    def found(self, resource: ManagedSession) -> None:
        """Record a claim that a new leader has found: the earlier one may have died before it could."""
        work = resource.status.work
        if work.claim is not None and work.finished_at is None:
            self._record("ClaimFound", resource, work=work.id, sandbox=resource.status.sandbox.id)

    def stops_leading(self) -> None:
        """Record that this process leads no more."""
        self._sink.append("LeaderStopped", {})

    def work_fields(self, _: ManagedSession, work: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add nothing to what is written."""
        return work

    def written(self, before: ManagedSession, after: ManagedSession) -> None:
        """Record what a write to the status says."""
        was, now = before.status, after.status
        if now.work.claim is not None and now.work.claim != was.work.claim:
            self._record("Claimed", after, work=now.work.id)
        if _policy_of(before) != _policy_of(after):
            class_ = now.session_class
            self._record(
                "PolicyChanged",
                after,
                sessionClass=f"{class_.name}@{class_.generation}" if class_ is not None else None,
                policy=_policy_of(after),
            )
        self._sandbox_written(before, after)
        if now.work.finished_at is not None and (
            was.work.finished_at is None or was.work.claim != now.work.claim
        ):
            self._record("TurnEnded", after, turn=now.turns, exitReason=_known_reason(now.work.exit_reason))
        if now.ended_at is not None and was.ended_at is None:
            self._record("SessionEnded", after)

    def _sandbox_written(self, before: ManagedSession, after: ManagedSession) -> None:
        was, now = before.status.sandbox, after.status.sandbox
        if now.id is not None and now.id != was.id:
            self._record("SandboxAssigned", after, sandbox=now.id, template=now.template_id)
        if now.state is not was.state and now.state in (SandboxState.PAUSED, SandboxState.LOST):
            self._record(f"Sandbox{now.state}", after, sandbox=now.id)

    def called(self, name: str, run: WorkerRun, call: CallReport) -> None:
        """Record a tool call that has ended, once."""
        key = (name, run.claim, call.id)
        if key in self._calls:
            return
        self._calls[key] = None
        if len(self._calls) > _KNOWN_CALLS:
            self._calls.popitem(last=False)
        resource = self._find(name)
        self._sink.append(
            "ToolCalled",
            {
                "resource": name,
                "session": resource.spec.session_id if resource is not None else None,
                "claim": run.claim,
                "sandbox": run.sandbox_id,
                "call": call.id,
                "tool": call.tool,
                "input": call.input,
                "startedAt": call.started_at.isoformat(),
                "endedAt": call.ended_at.isoformat(),
                "isError": call.is_error,
            },
        )

    def killed(self, sandbox_id: str) -> None:
        """Record that a sandbox was killed."""
        self._sink.append("SandboxKilled", {"sandbox": sandbox_id})

    def accessed(self, access: Mapping[str, Any]) -> None:
        """Record that a person has reached into a sandbox, as the Event about it says."""
        self._sink.append("SandboxAccessed", access)

    def class_changed(self, name: str, generation: int | None) -> None:
        """Record that a class is new, changed or gone; `generation`: None if it is gone."""
        self._sink.append("ClassChanged", {"sessionClass": name, "generation": generation})

    def released(self, resource: ManagedSession) -> None:
        """Record that a deleted resource and all that belonged to it are gone."""
        self._record("Deleted", resource, turn=resource.status.turns)

    def _record(self, event: str, resource: ManagedSession, **fields: Any) -> None:
        self._sink.append(
            event,
            {
                "namespace": resource.metadata.namespace,
                "resource": resource.metadata.name,
                "session": resource.spec.session_id,
                "claim": resource.status.work.claim,
                **fields,
            },
        )


def _policy_of(resource: ManagedSession) -> str | None:
    """Return a digest of the policy in force. Its values may be confidential."""
    effective = resource.status.effective
    if effective is None:
        return None
    text = json.dumps(effective.to_json(), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _known_reason(reason: str | None) -> str | None:
    """Return the exit reason, which comes from a sandbox, if it is one of ours."""
    return reason if reason is None or ExitReason.named(reason) is not None else "Other"
