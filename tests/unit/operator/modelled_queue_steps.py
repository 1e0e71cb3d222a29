"""The steps of identity and of the queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from managed_session_api.times import claim_name, to_wire

from .examples import SESSION
from .modelled_process import (
    Effects,
    Process,
)


@dataclass
class QueueSteps(Process):
    """Whose session it is, when it ends, and what becomes of its offers."""

    def _take(self) -> Effects:
        version = self.world.version
        yield
        self.world.check(version)
        self.world.proven = True
        self.world.touch()

    def _confirm_end(self) -> Effects:
        ended, event, version = self.world.ended, self.world.resource.status.last_event, self.world.version
        self.memory.end_check_due = False
        self.memory.end_checked = event.id if event is not None else None
        if ended:
            yield
            self.world.write(version, endedAt=self._now)

    def _delete(self) -> Effects:
        version = self.world.version
        yield
        self.world.check(version)
        self.world.deleted_at = self.world.now
        self.world.touch()

    def _finalize(self) -> Effects:
        world, version = self.world, self.world.version
        self.memory.run = None
        for sandbox in [world.get(self._sandbox.get("id")), *world.listed()]:
            if sandbox is not None and sandbox.alive:
                yield
                world.kill(sandbox)
        if self._active and self._work.get("acknowledgedAt"):
            yield
            world.stop()
        yield
        world.secret = None
        yield
        world.release(version)

    def _drop(self) -> Effects:
        self.memory.offer = None
        return
        yield

    def _reject(self) -> Effects:
        yield
        if self.world.acknowledge():
            yield
            self.world.stop()
        self.memory.offer = None

    def _await_message(self) -> Effects:
        memory = self.memory
        if self.world.messages:
            memory.message_known = True
        elif memory.message_awaited_since is None and memory.offer is not None:
            memory.message_awaited_since = memory.offer.offered_at
        return
        yield

    def _release_unused(self) -> Effects:
        world, memory, version = self.world, self.memory, self.world.version
        if world.messages or memory.offer is None:
            memory.message_known = True
            return
        claim = claim_name(memory.offer.offered_at, self._work.get("claim"))
        yield
        if world.acknowledge():
            yield
            world.stop()
        yield
        done = {"acknowledgedAt": self._now, "finishedAt": self._now, "exitReason": "NoMessage"}
        world.write(version, work={"id": SESSION, "claim": claim, "firstHeartbeatAt": None, **done})
        memory.offer = memory.message_awaited_since = None

    def _claim(self) -> Effects:
        world, memory, version, offer = self.world, self.memory, self.world.version, self.memory.offer
        assert offer is not None
        run = memory.run
        if run is not None and run.live and run.heartbeat and world.item != "queued":
            memory.offer = None
            return
        claim, seen = claim_name(offer.offered_at, self._work.get("claim")), world.secret
        yield
        world.put_secret(seen, claim)
        memory.token, memory.started_at, memory.message_awaited_since = claim, None, None
        sandbox: dict[str, Any] = {}
        if memory.connected is not None:
            sandbox = {"state": "Running"}
        elif self._sandbox.get("id") is None and self._sandbox.get("state") != "Creating":
            memory.fresh_attempt = self._sandbox.get("attempt", 0) + 1
            sandbox = {"state": "Creating", "attempt": memory.fresh_attempt}
        yield
        empty = dict.fromkeys(("acknowledgedAt", "firstHeartbeatAt", "finishedAt", "exitReason"))
        work = {"id": SESSION, "claim": claim, "offeredAt": to_wire(offer.offered_at), "attempts": 0, **empty}
        world.write(version, work=work, sandbox=sandbox)
        memory.offer = None

    def _refresh(self) -> Effects:
        claim, seen = self._work["claim"], self.world.secret
        yield
        self.world.put_secret(seen, claim)
        self.memory.token, self.memory.offer = claim, None

    def _acknowledge(self) -> Effects:
        version = self.world.version
        assert self.memory.connected == self._sandbox.get("id"), "acknowledged before its sandbox was ready"
        yield
        if not self.world.acknowledge():
            yield from self._give_up("WorkLost")
            return
        yield
        self.world.write(
            version, work={"acknowledgedAt": self._now, "attempts": 1}, sandbox={"state": "Running"}
        )
