"""A world of plain data around one resource: E2B, the queue, the sandbox's supervisor, the API server.

It keeps what the real ones keep, refuses what they refuse, and judges each effect by the promises.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from managed_session_api import names
from managed_session_api.resource import ManagedSession
from managed_session_api.times import to_wire

from .examples import ENVIRONMENT, NOW, body

LEASE = timedelta(seconds=300)


class RefusedError(Exception):
    """The outside did not do it: a conflict, a sandbox that is not there, an older leader."""


class NotRunningError(RefusedError):
    """The sandbox is paused or gone."""


@dataclass
class Sandbox:
    """One of the resource's sandboxes, with its supervisor's memory."""

    name: str
    attempt: int
    listed_from: datetime
    alive: bool = True
    running: bool = True
    worker: str | None = None
    """The claim whose worker lives in it, frozen while the sandbox is paused."""
    heartbeats: set[str] = field(default_factory=set)
    ends: dict[str, str] = field(default_factory=dict)
    """Exit reasons by claim."""
    epoch: int = 0
    newest: str = ""

    def knows(self, claim: str) -> bool:
        """Whether the supervisor has ever started the claim."""
        return claim in (self.worker, *self.ends)

    def end_worker(self, reason: str) -> None:
        """The worker is gone and recorded."""
        if self.worker is not None:
            self.ends[self.worker] = reason
            self.worker = None


@dataclass
class World:
    """Everything outside the operator's memory."""

    now: datetime = NOW
    version: int = 1
    status: dict[str, Any] = field(default_factory=dict)
    proven: bool = False
    suspended: bool = False
    deleted_at: datetime | None = None
    released: bool = False
    ended: bool = False
    messages: int = 0
    item: str | None = None
    """queued, starting, active or stopped."""
    offered_at: datetime | None = None
    heartbeat_at: datetime | None = None
    secret: str | None = None
    """The claim whose token is kept."""
    sandboxes: list[Sandbox] = field(default_factory=list)
    lag: timedelta = timedelta(0)
    late: bool = False
    """The effect was decided by a leader that has lost its Lease since."""
    epoch: int = 1

    @property
    def resource(self) -> ManagedSession:
        """The resource as the API server has it."""
        return ManagedSession.model_validate(
            body(
                version=self.version,
                status=self.status,
                spec={
                    "environmentID": ENVIRONMENT if self.proven else None,
                    "lifecycle": {"suspend": self.suspended},
                },
                finalizers=[names.FINALIZER] if self.proven and not self.released else [],
                deletionTimestamp=to_wire(self.deleted_at) if self.deleted_at else None,
            )
        )

    def part(self, name: str) -> dict[str, Any]:
        """`status.work` or `status.sandbox`."""
        found: dict[str, Any] = self.status.get(name, {})
        return found

    # The API server

    def write(self, version: int, **parts: Any) -> int:
        """A status write decided on `version`; the new one. None removes a value."""
        self.check(version)
        for name, value in parts.items():
            if isinstance(value, dict):
                merged = {**self.part(name), **value}
                self.status[name] = {key: each for key, each in merged.items() if each is not None}
            else:
                self.status[name] = value
        return self.touch()

    def check(self, version: int) -> None:
        """Refuse what was decided on another version, or is about nothing any more."""
        if version != self.version or self.released:
            raise RefusedError("conflict")

    def touch(self) -> int:
        """Something of the resource changed."""
        self.version += 1
        return self.version

    def release(self, version: int) -> None:
        """Remove the finalizer."""
        self.check(version)
        recorded = self.part("sandbox").get("id")
        for sandbox in self.sandboxes:
            if sandbox.alive:
                assert sandbox.name != recorded, "the finalizer went with the recorded sandbox alive"
                assert sandbox.listed_from > self.now, "the finalizer went with a listed sandbox alive"
        self.released = True

    def put_secret(self, seen: str | None, claim: str) -> None:
        """Replace the Secret that was `seen`."""
        if self.secret != seen:
            raise RefusedError("another Secret")
        self.secret = claim

    def delete_secret(self, claim: str) -> None:
        """Remove the Secret if it is of this claim."""
        if self.secret == claim:
            self.secret = None

    # E2B

    def get(self, name: str | None) -> Sandbox | None:
        """The sandbox if it is there."""
        return next((each for each in self.sandboxes if each.name == name and each.alive), None)

    def listed(self) -> list[Sandbox]:
        """What a list shows: newest attempt first, running before paused."""
        shown = [each for each in self.sandboxes if each.alive and each.listed_from <= self.now]
        return sorted(shown, key=lambda each: (-each.attempt, not each.running))

    def create(self, attempt: int) -> Sandbox:
        """Create with the idempotency key of the attempt."""
        if not self.late:
            known = self.part("sandbox")
            assert known.get("id") is None, "a create beside a recorded sandbox"
            assert known.get("state") == "Creating", "a create that was not announced"
            assert known.get("attempt") == attempt, "a create of another attempt than the announced"
        before = next((each for each in self.sandboxes if each.attempt == attempt), None)
        if before is not None:
            return before
        sandbox = Sandbox(f"i{attempt}", attempt, self.now + self.lag)
        self.sandboxes.append(sandbox)
        return sandbox

    def connect(self, name: str | None) -> Sandbox:
        """Resume; refused where there is none."""
        sandbox = self.get(name)
        if sandbox is None:
            raise NotRunningError("gone")
        sandbox.running = True
        return sandbox

    def pause(self, name: str | None, *, under_worker: bool = False) -> Sandbox | None:
        """Pause; `under_worker` where that is meant."""
        sandbox = self.get(name)
        if sandbox is not None:
            if not (under_worker or self.late):
                assert sandbox.worker is None, "paused under a live worker"
            sandbox.running = False
        return sandbox

    def kill(self, sandbox: Sandbox) -> None:
        """Kill, with all that is in it."""
        if self.deleted_at is None:
            assert sandbox.name != self.part("sandbox").get("id"), "killed the sandbox of a live resource"
        sandbox.alive, sandbox.running, sandbox.worker = False, False, None

    # The queue

    def acknowledge(self) -> bool:
        """Whether the item is ours to serve now."""
        if self.item == "queued":
            self.item = "starting"
        return self.item == "starting"

    def stop(self) -> None:
        """Force-stop the item."""
        if self.item is not None:
            self.item = "stopped"

    def interrupt(self) -> None:
        """The stuck turn ends; its message is answered by nobody, and the user was told."""
        self.messages = 0

    # The supervisor

    def start(self, name: str | None, claim: str, epoch: int) -> None:
        """Start the claim's worker, or find it started."""
        sandbox = self._reached(name)
        if epoch < sandbox.epoch:
            raise RefusedError("StaleEpoch")
        sandbox.epoch = epoch
        if sandbox.knows(claim):
            return
        if claim < sandbox.newest:
            raise RefusedError("StaleClaim")
        heartbeated = self.part("work").get("firstHeartbeatAt") is not None
        assert self.late or not heartbeated, "a claim that heartbeated was started"
        others = [each for each in self.sandboxes if each.knows(claim)]
        assert not any(each.alive for each in others), "a claim got workers in two sandboxes"
        sandbox.end_worker("Superseded")
        sandbox.worker = sandbox.newest = claim

    def watch(self, name: str | None, claim: str, epoch: int) -> Sandbox | None:
        """The sandbox whose supervisor knows the claim."""
        sandbox = self._reached(name)
        sandbox.epoch = max(sandbox.epoch, epoch)
        return sandbox if sandbox.knows(claim) else None

    def stop_worker(self, name: str | None, claim: str, epoch: int) -> None:
        """Kill the claim's worker."""
        sandbox = self._reached(name)
        if epoch < sandbox.epoch:
            raise RefusedError("StaleEpoch")
        sandbox.epoch = epoch
        if sandbox.worker == claim:
            sandbox.end_worker("Killed")

    def _reached(self, name: str | None) -> Sandbox:
        sandbox = self.get(name)
        if sandbox is None or not sandbox.running:
            raise NotRunningError("not running")
        return sandbox

    @property
    def worker(self) -> Sandbox | None:
        """The sandbox in which a worker runs now."""
        working = [each for each in self.sandboxes if each.alive and each.running and each.worker]
        assert len(working) <= 1, "two workers at one time"
        return working[0] if working else None

    def lease_lives(self) -> bool:
        """Whether a worker holds the item."""
        beat = self.heartbeat_at
        return self.item == "active" and beat is not None and self.now < beat + LEASE

    def beat(self) -> None:
        """The worker heartbeats, as it does all the time: at first it takes the lease."""
        sandbox = self.worker
        if sandbox is None or sandbox.worker is None:
            return
        claim = sandbox.worker
        held = claim in sandbox.heartbeats
        if (held and self.lease_lives()) or (not held and self.item == "starting"):
            sandbox.heartbeats.add(claim)
            self.item, self.heartbeat_at = "active", self.now
        else:
            sandbox.end_worker("LeaseLost" if held else "Error")

    def requeue(self) -> None:
        """A lapsed lease gives the item back."""
        if self.item == "active" and not self.lease_lives():
            self.item, self.offered_at = "queued", None
