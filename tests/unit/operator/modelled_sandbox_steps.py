"""The steps about the sandbox."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from .modelled_process import (
    Effects,
    Process,
)
from .world import RefusedError


@dataclass
class SandboxSteps(Process):
    """Created, found again, resumed, paused, rolled over."""

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
