"""A world of plain data around one resource: E2B, the queue, the sandbox's supervisor, the API server.

It keeps what the real ones keep, refuses what they refuse, and judges each effect by the guarantees. The
operator's real steps reach it through `in_memory_ports.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from managed_session_api.times import to_wire
from managed_session_operator.domain.errors import ConflictError, ErrorKind, OperationError, ResourceGoneError
from managed_session_operator.domain.sandbox import SandboxRequest

from ...support.merge_patch import merge_patch
from .examples import NOW, body
from .in_memory_spans import InMemorySpans
from .world_classes import WorldWithClasses, judge_new_sandbox

LEASE = timedelta(seconds=300)
FOREIGN = "of-another-session"
"""A snapshot of another session."""
EFFECT = timedelta(milliseconds=10)
"""Seconds that an effect takes."""


class NotRunningError(Exception):
    """The sandbox is paused or gone."""


class StaleError(Exception):
    """The supervisor knows a later leader, or has started a newer claim."""


class BusyError(Exception):
    """A worker that serves late gets time to finish."""


@dataclass
class Sandbox:
    """One of the resource's sandboxes, with the state of its supervisor."""

    name: str
    attempt: int
    listed_from: datetime
    period_began: datetime
    paused_at: datetime | None = None
    earlier_periods: list[timedelta] = field(default_factory=list)
    """The lengths of its running periods before the newest."""
    alive: bool = True
    worker: str | None = None
    """The claim of the worker in it, which is frozen while the sandbox is paused."""
    heartbeats: set[str] = field(default_factory=set)
    waits: set[str] = field(default_factory=set)
    """Claims whose worker has told that it waits for the session's user."""
    late: dict[str, datetime] = field(default_factory=dict)
    """Claims whose worker serves late, and since when."""
    ends: dict[str, str] = field(default_factory=dict)
    """Exit reasons by claim."""
    epoch: int = 0
    newest: str = ""
    template: str = ""
    deny: tuple[str, ...] = ()
    headers: dict[tuple[str, str], str] = field(default_factory=dict)
    """What E2B adds to its requests, by host and header."""
    network_updates: int = 0
    requested_deny: tuple[str, ...] = ()
    unclean: bool = False
    """Whether processes of another session run in it."""
    reached_by: set[int] = field(default_factory=set)
    """The leaders that have created or resumed it, and have not paused it since."""

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.alive and self.paused_at is None

    def knows(self, claim: str) -> bool:
        """Return whether the supervisor has ever started the claim."""
        return claim in (self.worker, *self.ends)

    def end_worker(self, reason: str) -> None:
        """End the worker, and record its exit."""
        if self.worker is not None:
            self.ends[self.worker] = reason
            self.worker = None

    def vanish(self) -> None:
        """Remove the sandbox with everything in it."""
        self.alive, self.worker = False, None


def _unproven() -> dict[str, Any]:
    """Return a resource as the webhook creates it."""
    made = body(finalizers=[])
    del made["spec"]["environmentID"]
    return made


@dataclass
class World(WorldWithClasses):
    """Everything outside the operator's process."""

    now: datetime = NOW
    body: dict[str, Any] = field(default_factory=_unproven)
    released: bool = False
    ended: str | None = None
    """How the session has ended, if it has: terminated or deleted."""
    messages: int = 0
    """Number of messages that are not served yet."""
    message_count: int = 0
    """Number of all messages."""
    turn_began: datetime = NOW
    """When the first message came that is not served yet."""
    awaiting: bool = False
    """Whether the turn waits for the session's user to answer a call."""
    other_thread_works: bool = False
    """Whether a call of another thread is open meanwhile."""
    queues_lapsed: bool = True
    """Whether a lease that lapses during such a wait gives the item back. Otherwise the item is stopped."""
    answers_queue: bool = False
    """Whether an answer queues work, if the item is stopped."""
    metadata: dict[str, str] = field(default_factory=dict)
    """The session's metadata at Anthropic."""
    item: str | None = None
    """queued, starting, active or stopped."""
    queued_at: datetime = NOW
    offered_at: datetime | None = None
    heartbeat_at: datetime | None = None
    secret: str | None = None
    """The claim whose token is stored."""
    secret_version: int = 0
    sandboxes: list[Sandbox] = field(default_factory=list)
    secrets: dict[str, tuple[int, str]] = field(default_factory=dict)
    """The users' Secrets by name, each with one key: (version, value)."""
    preparations_fail: bool = False
    """Whether what the policy asks for cannot be done in the sandbox."""
    prepared_for: list[str] = field(default_factory=list)
    """The purposes of all preparations."""
    lag: timedelta = timedelta(0)
    snapshots: dict[str, str] = field(default_factory=dict)
    """The names of snapshots, and of which sandbox they are."""
    taken: int = 0
    """Number of snapshots that were taken."""
    spans: InMemorySpans = field(default_factory=InMemorySpans)
    """Where the traces of turns go."""
    late: bool = False
    """Whether the current effect comes from a leader that has lost its Lease."""
    epoch: int = 1

    # The API server

    @property
    def resource(self) -> ManagedSession:
        """The resource as the API server has it."""
        return ManagedSession.model_validate(self.body)

    def part(self, name: str) -> dict[str, Any]:
        """`status.work`, `status.sandbox` or `status.cost`."""
        found: dict[str, Any] = self.body["status"].get(name, {})
        return found

    @property
    def version(self) -> int:
        """The resource's version."""
        return int(self.body["metadata"]["resourceVersion"])

    @property
    def deleted(self) -> bool:
        """Whether the resource is being deleted."""
        return "deletionTimestamp" in self.body["metadata"]

    @property
    def suspended(self) -> bool:
        """Whether the spec suspends the session."""
        return bool(self.body["spec"].get("lifecycle", {}).get("suspend"))

    def check(self, resource: ManagedSession) -> None:
        """Refuse a write that was decided on another version, or whose resource is gone."""
        if self.released or resource.metadata.uid != self.body["metadata"]["uid"]:
            raise ResourceGoneError("gone")
        if int(resource.metadata.resource_version) != self.version:
            raise ConflictError("conflict")

    def write(self, **parts: Any) -> dict[str, Any]:
        """Merge into the status."""
        written = self._changed(merge_patch(self.body, {"status": parts}))
        if "cost" in parts:
            self._judge_cost()
        return written

    def _judge_cost(self) -> None:
        """No second is counted twice, but for sandboxes that went at a time that nobody knows."""
        if not all(each.alive for each in self.sandboxes):
            return
        ran, periods = timedelta(), 0
        for each in self.sandboxes:
            lengths = [*each.earlier_periods, (each.paused_at or self.now) - each.period_began]
            ran, periods = sum(lengths, ran), periods + len(lengths)
        counted = self.part("cost").get("sandboxSeconds", 0)
        assert counted <= ran.total_seconds() + periods / 2, "more running time than there was"

    def patch(self, patch: dict[str, Any]) -> dict[str, Any]:
        """Merge into metadata and spec. A deleted resource is removed with its last finalizer."""
        before = self.body["metadata"].get("finalizers", [])
        after = merge_patch(self.body, patch)
        if patch.get("spec"):
            generation = after["metadata"]["generation"] + 1
            after = merge_patch(after, {"metadata": {"generation": generation}})
        if names.FINALIZER in before and names.FINALIZER not in after["metadata"].get("finalizers", []):
            self._let_go()
        return self._changed(after)

    def _let_go(self) -> None:
        assert self.deleted, "the finalizer of a resource went that nobody deletes"
        recorded = self.part("sandbox").get("id")
        for sandbox in self.sandboxes:
            if sandbox.alive:
                assert sandbox.name != recorded, "the finalizer went with the recorded sandbox alive"
                assert sandbox.listed_from > self.now, "the finalizer went with a listed sandbox alive"
        self.released = True

    def delete(self) -> None:
        """Request the resource's deletion."""
        if not self.body["metadata"].get("finalizers"):
            # A resource without a finalizer is removed at once.
            self.released = True
        metadata = {"metadata": {"deletionTimestamp": to_wire(self.now)}}
        self._changed(merge_patch(self.body, metadata))

    def _changed(self, changed: dict[str, Any]) -> dict[str, Any]:
        version = {"metadata": {"resourceVersion": str(self.version + 1)}}
        self.body = merge_patch(changed, version)
        ManagedSession.model_validate(self.body)
        return self.body

    def put_secret(self, claim: str) -> None:
        """Replace the Secret."""
        self.secret, self.secret_version = claim, self.secret_version + 1

    def delete_secret(self) -> None:
        """Remove the Secret."""
        self.secret, self.secret_version = None, self.secret_version + 1

    # E2B

    def get(self, name: str | None) -> Sandbox | None:
        """Return the sandbox, if it exists."""
        return next((each for each in self.sandboxes if each.name == name and each.alive), None)

    def listed(self) -> list[Sandbox]:
        """Return the sandboxes that a list shows."""
        return [each for each in self.sandboxes if each.alive and each.listed_from <= self.now]

    def create(self, attempt: int, epoch: int, request: SandboxRequest) -> Sandbox:
        """Create a sandbox with the attempt's idempotency key.

        A key that comes again with another request is refused.
        """
        if not self.late:
            known = self.part("sandbox")
            assert known.get("id") is None, "a create beside a recorded sandbox"
            assert known.get("state") == "Creating", "a create that was not announced"
            assert known.get("attempt") == attempt, "a create of another attempt than the announced"
        sandbox = next((each for each in self.sandboxes if each.attempt == attempt), None)
        if sandbox is None:
            sandbox = Sandbox(f"i{attempt}", attempt, self.now + self.lag, self.now)
            sandbox.template, sandbox.deny = request.template, request.deny
            sandbox.requested_deny = request.deny
            source = self.part("sandbox").get("fromSnapshot")
            if source is not None and not self.late:
                assert request.template == source, "a sandbox of something else than the recorded snapshot"
                if source not in self.snapshots and source != FOREIGN:
                    raise OperationError(
                        ErrorKind.USER_ACTION, Reason.TEMPLATE_NOT_FOUND, "no such snapshot", status=404
                    )
                sandbox.unclean = source == FOREIGN
            self.sandboxes.append(sandbox)
            if not self.late and source is None:
                judge_new_sandbox(self.resource.status, sandbox.template, sandbox.deny)
        elif (sandbox.template, sandbox.requested_deny) != (request.template, request.deny):
            raise OperationError(
                ErrorKind.TRANSIENT, Reason.SANDBOX_CREATE_FAILED, "another request", status=422
            )
        sandbox.reached_by.add(epoch)
        return sandbox

    def connect(self, name: str, epoch: int) -> Sandbox:
        """Resume a sandbox. Raise if there is none."""
        sandbox = self.get(name)
        if sandbox is None:
            raise NotRunningError("gone")
        if sandbox.paused_at is not None:
            sandbox.earlier_periods.append(sandbox.paused_at - sandbox.period_began)
            sandbox.paused_at, sandbox.period_began = None, self.now
            self._thaw(sandbox)
        sandbox.reached_by.add(epoch)
        return sandbox

    def _thaw(self, sandbox: Sandbox) -> None:
        """A worker whose lease has lapsed ends, unless it only waited and nobody else can serve now."""
        claim = sandbox.worker
        if claim is None or claim not in sandbox.heartbeats or claim in sandbox.late or self.lease_lives():
            return
        if claim in sandbox.waits and self.messages and self.item in (None, "stopped"):
            sandbox.late[claim] = self.now
        else:
            sandbox.end_worker("Thawed")

    def pause(self, name: str, epoch: int, *, under_worker: bool = False) -> Sandbox | None:
        """Pause a sandbox. `under_worker`: a worker in it may run."""
        sandbox = self.get(name)
        if sandbox is not None:
            sandbox.reached_by.discard(epoch)
        if sandbox is not None and sandbox.running:
            if not (under_worker or self.late):
                works = self._works_in(sandbox) and not self._superseded(sandbox)
                assert not works, "paused under a live worker"
            sandbox.paused_at = self.now
        return sandbox

    def _works_in(self, sandbox: Sandbox) -> bool:
        """Return whether the sandbox has a worker, other than one that was ended while E2B had it paused.

        That one ends by itself after the next resume.
        """
        ended = self.part("work").get("exitReason") in ("Suspended", "TurnTooLong")
        return sandbox.worker is not None and not ended

    def _superseded(self, sandbox: Sandbox) -> bool:
        """Return whether the start of the present claim's worker ends the one there, which has no lease."""
        claim = sandbox.worker
        return claim != self.part("work").get("claim") and (
            claim not in sandbox.heartbeats or claim in sandbox.late
        )

    def kill(self, name: str) -> bool:
        """Kill a sandbox with everything in it."""
        sandbox = self.get(name)
        if sandbox is None:
            return False
        if not (self.deleted or self.released):
            assert name != self.part("sandbox").get("id"), "killed the sandbox of a live resource"
            restoring = self.part("sandbox").get("replaces", {}).get("id") == name and "id" not in self.part(
                "sandbox"
            )
            assert not restoring, "killed the sandbox that a restore replaces before there is another"
        sandbox.vanish()
        return True

    def take_snapshot(self, sandbox_id: str, name: str) -> str:
        """Take a snapshot of a running sandbox."""
        sandbox = self.reached(sandbox_id)
        if not self.late:
            assert not self._works_in(sandbox), "a snapshot under a worker"
            known = self.body["status"].get("snapshots", [])
            assert name in [each["name"] for each in known], "a snapshot that was not announced"
        self.taken += name not in self.snapshots
        self.snapshots[name] = sandbox_id
        return name

    # The queue

    def queue(self) -> None:
        """Queue the session's work."""
        if self.item in (None, "stopped"):
            self.item, self.queued_at, self.offered_at = "queued", self.now, None

    def acknowledge(self, epoch: int, *, to_serve: bool) -> bool:
        """Acknowledge the item. Return whether that succeeded. `to_serve`: it is not stopped next."""
        if self.item == "queued":
            if to_serve and not self.late:
                recorded = next(
                    (each for each in self.sandboxes if each.name == self.part("sandbox").get("id")), None
                )
                assert recorded is not None, "acknowledged before a sandbox was recorded"
                assert epoch in recorded.reached_by, "acknowledged before its sandbox was ready"
            self.item = "starting"
        return self.item == "starting"

    def stop(self) -> None:
        """Force-stop the item."""
        if self.item is not None:
            self.item = "stopped"

    def interrupt(self) -> None:
        """End the stuck turn. Its message gets no answer, and the user knows."""
        self.messages, self.awaiting = 0, False

    def answer(self) -> None:
        """The session's user answers the call for which the turn waits."""
        self.awaiting = False
        if self.answers_queue:
            self.queue()

    # The supervisor

    def start(self, name: str, claim: str, epoch: int) -> None:
        """Start the claim's worker, unless it was started."""
        sandbox = self.reached(name)
        assert not sandbox.unclean, "a worker among the processes of another session"
        if epoch < sandbox.epoch:
            raise StaleError("StaleEpoch")
        sandbox.epoch = epoch
        if sandbox.knows(claim):
            return
        if claim < sandbox.newest:
            raise StaleError("StaleClaim")
        if sandbox.worker in sandbox.late:
            raise BusyError
        had_heartbeat = self.part("work").get("firstHeartbeatAt") is not None
        assert self.late or not had_heartbeat, "a claim with a heartbeat was started"
        acknowledged = self.part("work").get("acknowledgedAt") is not None
        assert self.late or acknowledged, "a worker of a claim that was not acknowledged"
        others = [each for each in self.sandboxes if each.knows(claim)]
        assert not any(each.alive for each in others), "a claim got workers in two sandboxes"
        sandbox.end_worker("Superseded")
        sandbox.worker = sandbox.newest = claim

    def watch(self, name: str, claim: str, epoch: int) -> Sandbox | None:
        """Return the sandbox whose supervisor knows the claim."""
        sandbox = self.reached(name)
        sandbox.epoch = max(sandbox.epoch, epoch)
        return sandbox if sandbox.knows(claim) else None

    def stop_worker(self, name: str, claim: str, epoch: int) -> None:
        """Kill the claim's worker."""
        sandbox = self.reached(name)
        if epoch < sandbox.epoch:
            raise StaleError("StaleEpoch")
        sandbox.epoch = epoch
        if sandbox.worker == claim:
            sandbox.end_worker("Killed")

    def reached(self, name: str) -> Sandbox:
        """Return the sandbox whose supervisor answers."""
        sandbox = self.get(name)
        if sandbox is None or not sandbox.running:
            raise NotRunningError("not running")
        return sandbox

    # The worker

    @property
    def worker(self) -> Sandbox | None:
        """The sandbox in which a worker runs now."""
        working = [each for each in self.sandboxes if each.running and each.worker]
        assert len(working) <= 1, "two workers at one time"
        return working[0] if working else None

    def lease_lives(self) -> bool:
        """Return whether a worker holds the item."""
        beat = self.heartbeat_at
        return self.item == "active" and beat is not None and self.now < beat + LEASE

    def beat(self) -> None:
        """The worker sends a heartbeat. The first one takes the lease.

        A worker whose item was stopped serves late, until work is queued again.
        """
        sandbox = self.worker
        if sandbox is None or sandbox.worker is None:
            return
        claim = sandbox.worker
        held = claim in sandbox.heartbeats
        if claim in sandbox.late:
            if self.item not in (None, "stopped"):
                sandbox.end_worker("Idle")
        elif (held and self.lease_lives()) or (not held and self.item == "starting"):
            sandbox.heartbeats.add(claim)
            self.item, self.heartbeat_at = "active", self.now
        elif not held and self.item == "stopped" and self.messages:
            sandbox.heartbeats.add(claim)
            sandbox.late[claim] = self.now
        else:
            sandbox.end_worker("LeaseLost" if held else "Error")

    def worker_ends(self, reason: str) -> None:
        """End the worker. After a clean end it has served all messages and given its work back."""
        sandbox = self.worker
        if sandbox is None or sandbox.worker is None:
            return
        if self.awaiting and reason in ("Idle", "NoMessage", "Stopped"):
            # It does not leave before its user has answered.
            return
        if reason in ("Idle", "NoMessage", "Stopped") and sandbox.worker in sandbox.heartbeats:
            if sandbox.worker not in sandbox.late:
                self.stop()
            self.messages = 0
        sandbox.end_worker(reason)

    def await_user(self) -> None:
        """The turn waits for the session's user, as its worker tells."""
        sandbox = self.worker
        if sandbox is not None and sandbox.worker in sandbox.heartbeats and self.messages:
            self.awaiting = True

    def time_passes(self, seconds: float) -> None:
        """Let time pass. Running workers send heartbeats meanwhile; frozen ones do not."""
        self.now += timedelta(seconds=seconds)
        sandbox = self.worker
        if sandbox is not None and sandbox.worker in sandbox.heartbeats and self.item == "active":
            self.heartbeat_at = self.now
        if self.item == "active" and not self.lease_lives():
            # A lapsed lease gives the item back.
            self.item, self.queued_at, self.offered_at = "queued", self.now, None
            if self.awaiting and not self.queues_lapsed:
                self.item = "stopped"
