"""A modelled operator process: what it knows, and how a turn may end."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from managed_session_api.times import to_wire
from managed_session_operator.clients.worker_runs import ExitRecord, WorkerRun
from managed_session_operator.decisions import Decision, Surroundings, decide, has_hint
from managed_session_operator.offers import Offer
from managed_session_operator.stuck import Sightings, suspected
from managed_session_operator.turns import Look
from managed_session_operator.work_list import WorkItem

from .examples import ENVIRONMENT, NAME, POLICY, SESSION
from .world import Sandbox, World

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
class Process:
    """One process, without its steps."""

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

    def _found(self) -> list[Sandbox]:
        return [each for each in self.world.listed() if each.attempt >= self._sandbox.get("attempt", 0)]

    def _record(self, version: int, sandbox: Sandbox) -> Effects:
        yield
        self.world.write(version, sandbox={"id": sandbox.name, "state": "Running"})
        self.memory.connect(sandbox.name, self.world.now)

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

    def _recovery(self) -> dict[str, Any]:
        if self.world.messages:
            return {"suspectedAt": self._now}
        return {"checkedAt": self._now, "attempts": 0} if suspected(self.world.resource) else {}

    def _watch(self, claim: str) -> bool:
        """Take up the events of the claim's worker; whether the supervisor knows it."""
        sandbox = self.world.watch(self.memory.connected, claim, self.memory.epoch)
        if sandbox is not None:
            self.memory.run = WorkerRun(claim, sandbox.name, accepted=True)
            self.hear()
        return sandbox is not None

    def _watch_or_finish(self) -> Effects:
        claim = self._work["claim"]
        yield
        if not self._watch(claim):
            yield from self._finished("WorkerVanished", "Running")

    def note_items(self) -> None:
        """The sweep reads the environment's work list."""
        world, memory = self.world, self.memory
        memory.listed_at, memory.item = world.now, None
        if world.item is not None:
            memory.item = WorkItem(SESSION, SESSION, world.item, world.now)
        stranded = world.item == "starting" and not self._active
        memory.unstarted_since = (memory.unstarted_since or world.now) if stranded else None

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
