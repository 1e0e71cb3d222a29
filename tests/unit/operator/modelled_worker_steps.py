"""The steps about the worker, and about sessions that nobody serves."""

from __future__ import annotations

from dataclasses import dataclass

from managed_session_api.times import claim_name, to_wire
from managed_session_operator.decisions import GIVEN_BACK, has_hint
from managed_session_operator.stuck import suspected
from managed_session_operator.turns import Awaited, Look, Turn

from .modelled_process import (
    ATTEMPTS,
    RECOVERIES,
    Effects,
    Process,
)
from .world import RefusedError


@dataclass
class WorkerSteps(Process):
    """Started, listened to, finished; looked at and recovered."""

    def _look(self) -> Effects:
        world, memory, version = self.world, self.memory, self.world.version
        turn = Turn(Awaited.AGENT if world.messages else Awaited.NOBODY, str(world.messages))
        memory.look = memory.look.again(turn, world.now) if memory.look else Look(turn, world.now, world.now)
        resource = world.resource
        if turn.awaited is Awaited.NOBODY and (suspected(resource) or has_hint(resource)):
            event = resource.status.last_event
            checked = max(world.now, event.created_at) if event is not None else world.now
            yield
            world.write(version, recovery={"checkedAt": to_wire(checked), "attempts": 0})

    def _recover(self) -> Effects:
        world, memory, version = self.world, self.memory, self.world.version
        unserved = memory.look is not None and memory.look.turn.awaited is Awaited.AGENT
        if unserved and not suspected(world.resource):
            yield
            version = world.write(version, recovery={"suspectedAt": self._now})
        if memory.item is not None and memory.item.unstarted and memory.unstarted_since is not None:
            if world.item != "starting":
                memory.unstarted_since, memory.acted_at = None, world.now
                return
            yield
            world.stop()
        memory.acted_at, memory.unstarted_since = world.now, None
        if not unserved:
            return
        attempts = world.part("recovery").get("attempts", 0)
        if attempts < RECOVERIES:
            attempts += 1
            yield
            world.interrupt()
        yield
        world.write(version, recovery={"suspectedAt": self._now, "attempts": attempts})

    def _start(self) -> Effects:
        world, memory, claim = self.world, self.memory, self._work["claim"]
        if memory.token != claim:
            if world.secret != claim:
                yield
                if not self._watch(claim):
                    yield
                    world.stop()
                    yield from self._give_up("TokenLost")
                return
            memory.token = claim
        yield
        try:
            world.start(memory.connected, claim, memory.epoch)
        except RefusedError:
            memory.disconnect()
            raise
        memory.started_at = memory.started_at or world.now
        yield
        if not self._watch(claim):
            raise RefusedError("UnknownClaim")

    def _stop_worker(self) -> Effects:
        yield
        self.world.stop_worker(self.memory.connected, self._work["claim"], self.memory.epoch)
        self.memory.started_at = self.world.now
        self.hear()

    def _record_heartbeat(self) -> Effects:
        version, claim = self.world.version, self._work["claim"]
        yield
        self.world.delete_secret(claim)
        yield
        self.world.write(version, work={"firstHeartbeatAt": self._now})
        self.memory.token = None

    def _reattach(self) -> Effects:
        world, memory, name = self.world, self.memory, self._sandbox.get("id")
        memory.run = None
        sandbox = world.get(name)
        if sandbox is None:
            yield from self._vanished()
            return
        if not sandbox.running:
            memory.disconnect()
            if not world.lease_lives():
                over = world.item in (None, "stopped")
                yield from self._finished("Released" if over else "SandboxPaused", "Paused")
                return
        yield
        memory.connect(world.connect(name).name, world.now)
        yield from self._watch_or_finish()

    def _finish(self) -> Effects:
        world, memory, run = self.world, self.memory, self.memory.run
        assert run is not None
        assert run.record is not None
        if not run.heartbeat and run.record.reason not in GIVEN_BACK and world.item == "starting":
            yield from self._start_again()
            return
        state = "Running"
        if memory.offer is None:
            yield
            memory.missing = world.pause(run.sandbox_id) is None
            memory.disconnect()
            state = "Paused"
        yield from self._finished(run.record.reason, state, heartbeat=run.heartbeat)

    def _start_again(self) -> Effects:
        world, work, version = self.world, self._work, self.world.version
        if world.secret == work["claim"] and work.get("attempts", 0) < ATTEMPTS:
            claim, seen = claim_name(world.now, work["claim"]), world.secret
            yield
            world.put_secret(seen, claim)
            self.memory.token, self.memory.started_at, self.memory.run = claim, None, None
            yield
            world.write(version, work={"claim": claim, "attempts": work.get("attempts", 0) + 1})
            return
        yield
        world.stop()
        yield from self._give_up("StartFailed")
