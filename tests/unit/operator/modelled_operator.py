"""What each step does, as a series of effects on a `World`; `decide` alone chooses the step.

A step is a generator that stops before each effect: there it can be cut off, or freeze and go on late.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from managed_session_api.times import claim_name, to_wire
from managed_session_operator.clients.worker_runs import ExitRecord, WorkerRun
from managed_session_operator.decisions import GIVEN_BACK, Decision, Step, Surroundings, decide, has_hint
from managed_session_operator.offers import Offer
from managed_session_operator.stuck import Sightings, suspected
from managed_session_operator.turns import Awaited, Look, Turn
from managed_session_operator.work_list import WorkItem

from .examples import ENVIRONMENT, NAME, POLICY, SESSION
from .world import RefusedError, Sandbox, World

Effects = Generator[None]
START_SECONDS = 30
EXTEND_SECONDS = 300
ROLL_OVER_SECONDS = 3000
ATTEMPTS = 5
RECOVERIES = 3


@dataclass
class Memory:
    """What a process knows; lost with it."""

    epoch: int
    offer: Offer | None = None
    run: WorkerRun | None = None
    connected: str | None = None
    token: str | None = None
    fresh_attempt: int | None = None
    extend_at: datetime | None = None
    roll_over_at: datetime | None = None
    started_at: datetime | None = None
    message_known: bool = False
    message_awaited_since: datetime | None = None
    end_checked: str | None = None
    end_check_due: bool = False
    hint: tuple[str, datetime] | None = None
    running_unexpectedly: bool = False
    missing: bool = False
    listed_at: datetime | None = None
    item: WorkItem | None = None
    unstarted_since: datetime | None = None
    look: Look | None = None
    acted_at: datetime | None = None

    def connect(self, name: str, now: datetime) -> None:
        self.connected = name
        self.extend_at = now + timedelta(seconds=EXTEND_SECONDS)
        self.roll_over_at = self.roll_over_at or now + timedelta(seconds=ROLL_OVER_SECONDS)

    def disconnect(self) -> None:
        self.connected = self.extend_at = self.roll_over_at = self.started_at = None
        self.running_unexpectedly = False


@dataclass
class Operator:
    """One process."""

    world: World
    memory: Memory

    def surroundings(self) -> Surroundings:
        world, memory = self.world, self.memory
        event, expired = world.resource.status.last_event, False
        if event is not None:
            if memory.hint is None or memory.hint[0] != event.id:
                memory.hint = (event.id, world.now)
            patience = timedelta(seconds=POLICY.attach_timeout_seconds)
            expired = world.now - memory.hint[1] > patience or world.now - event.created_at > patience * 2
        run = memory.run
        return Surroundings(
            now=world.now,
            environment_id=ENVIRONMENT,
            policy=POLICY,
            serving_name=NAME,
            offer=memory.offer,
            run=run if run is not None and run.claim == world.part("work").get("claim") else None,
            connected=memory.connected is not None,
            extend_at=memory.extend_at,
            roll_over_at=memory.roll_over_at,
            end_checked=memory.end_checked,
            hint_seen_at=memory.hint[1] if memory.hint else None,
            hint_expired=expired,
            message_known=memory.message_known or world.status.get("turns", 0) > 0,
            message_awaited_since=memory.message_awaited_since,
            end_check_due=memory.end_check_due,
            running_unexpectedly=memory.running_unexpectedly,
            missing=memory.missing,
            start_overdue_at=(
                memory.started_at + timedelta(seconds=START_SECONDS) if memory.started_at else None
            ),
            sightings=Sightings(
                listed_at=memory.listed_at,
                item=memory.item,
                unstarted_since=memory.unstarted_since,
                announced=expired and has_hint(world.resource),
                look=memory.look,
                acted_at=memory.acted_at,
                can_interrupt=True,
                attempts=RECOVERIES,
            ),
        )

    def decide(self) -> Decision:
        """The next step."""
        return decide(self.world.resource, self.surroundings())

    def effects(self, step: Step) -> Effects:
        """The effects of a step, one after each `yield`."""
        doing: dict[Step, Callable[[], Effects]] = {
            Step.FINALIZE: self._finalize,
            Step.ADOPT: self._take,
            Step.PROVE: self._take,
            Step.CONFIRM_END: self._confirm_end,
            Step.DELETE: self._delete,
            Step.REJECT_OFFER: self._reject,
            Step.AWAIT_MESSAGE: self._await_message,
            Step.RELEASE_UNUSED: self._release_unused,
            Step.CLAIM: self._claim,
            Step.REFRESH_TOKEN: self._refresh,
            Step.DROP_OFFER: self._drop,
            Step.PROVISION: self._provision,
            Step.ACKNOWLEDGE: self._acknowledge,
            Step.START_WORKER: self._start,
            Step.STOP_WORKER: self._stop_worker,
            Step.RECORD_HEARTBEAT: self._record_heartbeat,
            Step.REATTACH: self._reattach,
            Step.NOTE_VANISHED: self._note_vanished,
            Step.EXTEND: self._extend,
            Step.ROLL_OVER: self._roll_over,
            Step.FINISH: self._finish,
            Step.SUSPEND: self._suspend,
            Step.PAUSE: self._pause,
            Step.RESOLVE_CREATE: self._resolve_create,
            Step.LOOK: self._look,
            Step.RECOVER: self._recover,
        }
        return doing[step]()

    @property
    def _now(self) -> str:
        return to_wire(self.world.now)

    @property
    def _work(self) -> dict[str, Any]:
        return self.world.part("work")

    @property
    def _sandbox(self) -> dict[str, Any]:
        return self.world.part("sandbox")

    @property
    def _active(self) -> bool:
        return self._work.get("claim") is not None and self._work.get("finishedAt") is None

    # Identity

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

    # Offers

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

    def _give_up(self, reason: str) -> Effects:
        claim, version = self._work.get("claim"), self.world.version
        self.memory.run = None
        yield
        self.world.write(
            version,
            work={"finishedAt": self._now, "exitReason": reason},
            recovery={"suspectedAt": self._now},
        )
        yield
        self.world.delete_secret(claim or "")

    # The sandbox

    def _provision(self) -> Effects:
        world, memory, version, known = self.world, self.memory, self.world.version, self._sandbox
        if known.get("id") is not None:
            yield
            try:
                world.connect(known["id"])
            except RefusedError:
                yield from self._vanished()
                return
            memory.connect(known["id"], world.now)
            return
        attempt = known.get("attempt", 0)
        if known.get("state") != "Creating":
            attempt += 1
            memory.fresh_attempt = attempt
            yield
            version = world.write(version, sandbox={"state": "Creating", "attempt": attempt})
        first, memory.fresh_attempt = memory.fresh_attempt == attempt, None
        if not (first and attempt == 1) and (found := self._found()):
            yield
            world.connect(found[0].name)
            yield from self._record(version, found[0])
            return
        yield
        created = world.create(attempt)
        if not created.alive:
            yield
            world.write(version, sandbox={"state": None})
            return
        yield from self._record(version, created)

    def _found(self) -> list[Sandbox]:
        return [each for each in self.world.listed() if each.attempt >= self._sandbox.get("attempt", 0)]

    def _record(self, version: int, sandbox: Sandbox) -> Effects:
        yield
        self.world.write(version, sandbox={"id": sandbox.name, "state": "Running"})
        self.memory.connect(sandbox.name, self.world.now)

    def _vanished(self) -> Effects:
        version, work = self.world.version, self._work
        self.memory.run = None
        self.memory.disconnect()
        finished = self._active and work.get("firstHeartbeatAt")
        yield
        self.world.write(
            version,
            sandbox={"id": None, "state": "Lost"},
            work={"finishedAt": self._now, "exitReason": "SandboxVanished"} if finished else {},
            recovery={"suspectedAt": self._now} if finished else {},
        )

    def _note_vanished(self) -> Effects:
        self.memory.missing = False
        if self.world.get(self._sandbox.get("id")) is None:
            yield from self._vanished()

    def _resolve_create(self) -> Effects:
        version, found = self.world.version, self._found()
        yield
        if found:
            state = "Running" if found[0].running else "Paused"
            self.world.write(version, sandbox={"id": found[0].name, "state": state})
        else:
            self.world.write(version, sandbox={"state": None})

    def _pause(self, *, under_worker: bool = False) -> Effects:
        name, version = self._sandbox.get("id"), self.world.version
        if name is not None:
            yield
            if self.world.pause(name, under_worker=under_worker) is None:
                yield from self._vanished()
                return
        self.memory.disconnect()
        yield
        self.world.write(version, sandbox={"state": "Paused" if name is not None else None})

    def _suspend(self) -> Effects:
        world, memory, work = self.world, self.memory, self._work
        if self._active:
            if memory.connected is not None and work.get("acknowledgedAt"):
                yield
                with contextlib.suppress(RefusedError):
                    world.stop_worker(memory.connected, work["claim"], memory.epoch)
            memory.run = None
            if work.get("firstHeartbeatAt"):
                version = world.version
                yield
                world.write(
                    version,
                    work={"finishedAt": self._now, "exitReason": "Suspended"},
                    recovery={"suspectedAt": self._now},
                )
        yield from self._pause(under_worker=True)

    def _extend(self) -> Effects:
        sandbox = self.world.get(self._sandbox.get("id"))
        if sandbox is None or not sandbox.running:
            self.memory.run = None
            self.memory.disconnect()
            return
        self.memory.connect(sandbox.name, self.world.now)
        return
        yield

    def _roll_over(self) -> Effects:
        name = self._sandbox.get("id")
        yield
        if self.world.pause(name, under_worker=True) is None:
            yield from self._vanished()
            return
        self.memory.disconnect()
        yield
        self.world.connect(name)
        self.memory.connect(str(name), self.world.now)
        yield from self._watch_or_finish()

    # Stuck sessions

    def note_items(self) -> None:
        """The sweep reads the environment's work list."""
        world, memory = self.world, self.memory
        memory.listed_at, memory.item = world.now, None
        if world.item is not None:
            memory.item = WorkItem(SESSION, SESSION, world.item, world.now)
        stranded = world.item == "starting" and not self._active
        memory.unstarted_since = (memory.unstarted_since or world.now) if stranded else None

    def _recovery(self) -> dict[str, Any]:
        if self.world.messages:
            return {"suspectedAt": self._now}
        return {"checkedAt": self._now, "attempts": 0} if suspected(self.world.resource) else {}

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

    # The worker

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

    def _watch(self, claim: str) -> bool:
        """Take up the events of the claim's worker; whether the supervisor knows it."""
        sandbox = self.world.watch(self.memory.connected, claim, self.memory.epoch)
        if sandbox is not None:
            self.memory.run = WorkerRun(claim, sandbox.name, accepted=True)
            self.hear()
        return sandbox is not None

    def hear(self) -> None:
        """What the open stream tells."""
        run = self.memory.run
        sandbox = self.world.get(run.sandbox_id) if run is not None else None
        if run is None or not run.live:
            return
        if sandbox is None or not sandbox.running:
            run.cut = "cut"
            return
        run.heartbeat = run.heartbeat or run.claim in sandbox.heartbeats
        if run.claim in sandbox.ends:
            run.record = ExitRecord.model_validate({"claim": run.claim, "reason": sandbox.ends[run.claim]})

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

    def _watch_or_finish(self) -> Effects:
        claim = self._work["claim"]
        yield
        if not self._watch(claim):
            yield from self._finished("WorkerVanished", "Running")

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

    def _finished(self, reason: str, state: str, *, heartbeat: bool = True) -> Effects:
        version, work = self.world.version, self._work
        first = {"firstHeartbeatAt": self._now} if heartbeat and not work.get("firstHeartbeatAt") else {}
        yield
        self.world.write(
            version,
            work={"finishedAt": self._now, "exitReason": reason, **first},
            sandbox={"state": state},
            recovery=self._recovery(),
            turns=self.world.status.get("turns", 0) + (1 if heartbeat and reason != "NoMessage" else 0),
        )
        self.memory.run = None
        if not work.get("firstHeartbeatAt"):
            yield
            self.world.delete_secret(work.get("claim") or "")
