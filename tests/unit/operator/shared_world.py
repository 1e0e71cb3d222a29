"""Three sessions of one agent that share a sandbox, in memory: E2B, the API server, and one operator process.

The operator's real steps act on it. Each effect lets other tasks run, and may be the last of its process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, Literal

from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.managed_sandbox import ManagedSandbox, ManagedSandboxSpec
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_api.times import to_wire
from managed_session_operator.capacity.creation_rate import CreationRate
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.domain.errors import ConflictError, ErrorKind, OperationError, ResourceGoneError
from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.sandbox import SandboxRequest, SandboxView
from managed_session_operator.domain.session import SessionView
from managed_session_operator.domain.session_handle import session_key_of
from managed_session_operator.resync.shared_sandboxes import SharedSandboxes
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.sandbox import pause, provision, resolve_create
from managed_session_operator.steps.session_records import SessionRecords
from managed_session_operator.steps.shared_sandbox import depart
from managed_session_operator.steps.sharing import Sharing

from ...support.merge_patch import merge_patch
from .contexts import context
from .examples import ENVIRONMENT, NOW, body, settings
from .in_memory_clouds import Handle
from .in_memory_managed_sandboxes import InMemoryManagedSandboxes

SESSIONS = ("sesn_1", "sesn_2", "sesn_3")
AGENT = "agent_1"
SHARING = {"routing": {"scope": "agent"}}
_TRIES = 12


class DiedError(BaseException):
    """The process died at this effect."""


@dataclass
class Machine:
    """A sandbox at E2B, with the sessions whose workers run in it."""

    sandbox_id: str
    metadata: Mapping[str, str]
    paused: bool = False
    workers: set[str] = field(default_factory=set)
    folders: set[str | None] = field(default_factory=set)
    started_at: datetime = NOW


@dataclass
class World:
    """What outlives the process.

    Attributes:
        machines: the sandboxes that exist.
        made: number of sandboxes that ever were.
        dies_after: number of effects until the process dies; None if it lives on.
        unanswered: which calls fail: questions about a sandbox, or writes of a ManagedSandbox's status.
    """

    machines: dict[str, Machine] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    owners: InMemoryManagedSandboxes = field(default_factory=InMemoryManagedSandboxes)
    made: int = 0
    version: int = 10
    now: datetime = NOW
    dies_after: int | None = None
    unanswered: Literal["info", "owner"] | None = None

    async def effect(self) -> None:
        """Let others run, then do the effect, unless the process dies before it."""
        self.now += timedelta(milliseconds=10)
        await asyncio.sleep(0)
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                raise DiedError

    def ask(self, what: Literal["info", "owner"]) -> None:
        """Raise OperationError if this call fails at present."""
        if self.unanswered == what:
            raise OperationError(ErrorKind.TRANSIENT, Reason.SANDBOX_UNREACHABLE, what)

    def monotonic(self) -> float:
        """Return the time in seconds."""
        return self.now.timestamp()


@dataclass(frozen=True)
class Clock:
    """The world's time."""

    world: World

    def now(self) -> datetime:
        """Return the wall-clock time."""
        return self.world.now

    def monotonic(self) -> float:
        """Return the same time in seconds."""
        return self.world.monotonic()


@dataclass(frozen=True)
class Sandboxes:
    """E2B's control plane."""

    world: World

    def creating(self, _: str) -> bool:
        """Return False, because a create is answered at once."""
        return False

    async def give_up_create(self, _: str) -> None:
        """Do nothing."""

    async def create(self, request: SandboxRequest, idempotency_key: str) -> Handle:
        """Create a sandbox, or return that of the key."""
        await self.world.effect()
        world = self.world
        if idempotency_key not in world.answers:
            world.made += 1
            made = Machine(f"i{world.made}", request.metadata, started_at=world.now)
            for other in world.machines.values():
                same = other.metadata[names.METADATA_SHARED] == made.metadata[names.METADATA_SHARED]
                assert not (same and other.workers), "two sandboxes of one key, one with workers"
            world.machines[made.sandbox_id] = made
            world.answers[idempotency_key] = made.sandbox_id
        return Handle(world.answers[idempotency_key])

    async def connect(self, sandbox_id: str, timeout_seconds: int, *, reboot: bool = False) -> Handle:
        """Resume the sandbox."""
        assert timeout_seconds > 0
        assert not reboot
        await self.world.effect()
        machine = self.world.machines.get(sandbox_id)
        if machine is None:
            raise OperationError(ErrorKind.NOT_FOUND, Reason.SANDBOX_VANISHED, "gone")
        if machine.paused:
            machine.paused, machine.started_at = False, self.world.now
        return Handle(sandbox_id)

    async def info(self, sandbox_id: str) -> SandboxView | None:
        """Return the sandbox."""
        await asyncio.sleep(0)
        self.world.ask("info")
        machine = self.world.machines.get(sandbox_id)
        return self._view(machine) if machine is not None else None

    def _view(self, machine: Machine) -> SandboxView:
        end = self.world.now if machine.paused else self.world.now + timedelta(seconds=900)
        return SandboxView(machine.sandbox_id, machine.paused, "t", machine.metadata, machine.started_at, end)

    async def pause(self, sandbox_id: str, *, strict: bool = True) -> SandboxView | None:
        """Pause the sandbox, in which no worker may run."""
        assert strict
        await self.world.effect()
        machine = self.world.machines.get(sandbox_id)
        if machine is None:
            return None
        assert not machine.workers, "paused under a worker"
        machine.paused = True
        return self._view(machine)

    async def kill(self, sandbox_id: str) -> bool:
        """Kill the sandbox, in which no worker may run."""
        await self.world.effect()
        machine = self.world.machines.pop(sandbox_id, None)
        assert machine is None or not machine.workers, "killed under a worker"
        return machine is not None

    async def list(self, metadata: Mapping[str, str]) -> Sequence[SandboxView]:
        """Return the sandboxes with this metadata."""
        await asyncio.sleep(0)
        return [
            self._view(each)
            for each in self.world.machines.values()
            if metadata.items() <= each.metadata.items()
        ]

    async def pages(self, metadata: Mapping[str, str]) -> AsyncIterator[Sequence[SandboxView]]:
        """Yield the same."""
        yield await self.list(metadata)


@dataclass(frozen=True)
class Streams:
    """The sessions in their sandboxes."""

    world: World

    async def forget(self, _: str) -> None:
        """There are no streams."""

    async def leave(self, sandbox: Any) -> None:
        """Remove the session's folder from the running sandbox."""
        await self.world.effect()
        machine = self.world.machines.get(sandbox.sandbox_id)
        if machine is None or machine.paused:
            raise OperationError(ErrorKind.TRANSIENT, Reason.SANDBOX_UNREACHABLE, "not running")
        machine.folders.discard(session_key_of(sandbox))


@dataclass(frozen=True)
class Store:
    """The sessions' resources."""

    world: World

    async def get(self, name: str) -> dict[str, Any] | None:
        """Return the newest resource."""
        return self.world.bodies.get(name)

    async def pages(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield all resources in one page."""
        yield [*self.world.bodies.values()]

    async def patch_status(self, resource: ManagedSession, status: dict[str, Any]) -> dict[str, Any]:
        """Merge into the status."""
        await self.world.effect()
        known = self.world.bodies.get(resource.metadata.name)
        if known is None:
            raise ResourceGoneError(resource.metadata.name)
        if known["metadata"]["resourceVersion"] != resource.metadata.resource_version:
            raise ConflictError(resource.metadata.name)
        return self.merge(resource.metadata.name, {"status": status})

    def merge(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Change the resource unconditionally."""
        self.world.version += 1
        changed: dict[str, Any] = merge_patch(self.world.bodies[name], patch)
        changed["metadata"]["resourceVersion"] = str(self.world.version)
        self.world.bodies[name] = changed
        return changed


class Owners(InMemoryManagedSandboxes):
    """The ManagedSandboxes, whose writes are effects."""

    def __init__(self, world: World) -> None:
        super().__init__(world.owners.bodies, world.owners.version)
        self._world = world

    async def create(self, name: str, spec: ManagedSandboxSpec) -> dict[str, Any]:
        """Create the resource."""
        await self._world.effect()
        return await super().create(name, spec)

    async def patch_status(self, owner: ManagedSandbox, status: dict[str, Any]) -> dict[str, Any]:
        """Merge into the status."""
        await self._world.effect()
        self._world.ask("owner")
        return await super().patch_status(owner, status)

    async def remove(self, owner: ManagedSandbox) -> None:
        """Delete the resource."""
        await self._world.effect()
        await super().remove(owner)


class Operator:
    """One process, from its start as the leader."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store = Store(world)
        clock: Any = Clock(world)
        events = SimpleNamespace(record=lambda *_, **__: None)
        world.owners.version += 1000
        self.context: Context = context(
            settings=settings(),
            installation_id="ours",
            clock=clock,
            queue=SimpleNamespace(environment_id=ENVIRONMENT, base_url="https://api.anthropic.com"),
            sessions=self,
            sandboxes=Sandboxes(world),
            runs=Streams(world),
            records=SessionRecords(self.store, ResourceCache(), events, clock),  # type: ignore[arg-type]
            sharing=Sharing(Owners(world), clock),
            capacity=Capacity(5, 80, clock=world.monotonic),
            creation=CreationRate(1000.0, 1000, lambda _: True),
            events=events,
        )
        for each in world.bodies.values():
            self.context.records.cache.observe(each)
        self.context.hold_slots()
        self.resync = SharedSandboxes(self.context)

    async def session(self, session_id: str) -> SessionView:
        """Return the session, as Anthropic reports it."""
        return SessionView(session_id, ENVIRONMENT, AGENT, "idle", archived=False)

    def resource(self, session_id: str) -> ManagedSession:
        """Return the newest resource that this process knows."""
        found = self.context.records.cache.get(names.resource_name(session_id))
        assert found is not None
        return found

    def change(self, session_id: str, **status: Any) -> ManagedSession:
        """Change the status as another step would."""
        return self.context.records.note(
            self.store.merge(names.resource_name(session_id), {"status": status})
        )

    async def works(self, session_id: str, claim: int) -> None:
        """Begin a turn: a new resource if there is none, a claim, the sandbox, and its worker."""
        name = names.resource_name(session_id)
        if name not in self.world.bodies:
            uid = f"uid-{session_id}-{self.world.version}"
            self.world.bodies[name] = body(name, uid=uid, session=session_id, spec=SHARING)
            self.context.records.cache.observe(self.world.bodies[name])
        self.change(session_id, work={"claim": f"c{claim}", "finishedAt": None})
        cache = self.context.cache(name)
        for _ in range(_TRIES):
            if cache.sandbox is not None:
                break
            await self._take(session_id, provision)
        assert cache.sandbox is not None, "no sandbox in the end"
        self.change(session_id, sandbox={"state": "Running"})
        machine = self.world.machines.get(cache.sandbox.sandbox_id)
        if machine is not None:
            assert not machine.paused, "a worker in a paused sandbox"
            machine.workers.add(session_id)
            machine.folders.add(session_key_of(cache.sandbox))

    async def rests(self, session_id: str) -> None:
        """End the turn: its worker is gone, and the session needs its sandbox no longer."""
        for machine in self.world.machines.values():
            machine.workers.discard(session_id)
        now = to_wire(self.world.now)
        self.change(session_id, work={"claim": "c", "finishedAt": now})
        for _ in range(_TRIES):
            state = self.resource(session_id).status.sandbox.state
            if state not in (SandboxState.RUNNING, SandboxState.CREATING):
                return
            await self._take(session_id, pause if state is SandboxState.RUNNING else resolve_create)
        raise AssertionError("its sandbox is not given back in the end")

    async def goes(self, session_id: str) -> None:
        """Delete the session."""
        for machine in self.world.machines.values():
            machine.workers.discard(session_id)
        name = names.resource_name(session_id)
        if self.resource(session_id).status.sandbox.shared_by is not None:
            await self._take(session_id, depart)
        self.world.bodies.pop(name)
        self.context.records.cache.remove(name)
        await self.context.forget(name)

    async def compares(self) -> None:
        """Resync."""
        sandboxes = Sandboxes(self.world)
        listed = {each.sandbox_id: each for each in await sandboxes.list({})}
        for session_id in SESSIONS:
            resource = self.context.records.cache.get(names.resource_name(session_id))
            sandbox_id = resource.status.sandbox.id if resource is not None else None
            if sandbox_id is not None and sandbox_id not in listed:
                await self.context.runs.forget(names.resource_name(session_id))
        await self.resync.compare(listed, whole=True)

    async def _take(self, session_id: str, step: Any) -> None:
        for _ in range(_TRIES):
            try:
                await step(self.context, self.resource(session_id))
            except ConflictError:
                await self.context.records.refresh(self.resource(session_id))
            else:
                return
        raise AssertionError("only conflicts")
