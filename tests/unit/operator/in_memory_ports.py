"""The ports of one operator process, in memory. Its calls reach a `World` through a gate before each effect.

A process that no longer leads is fenced, as the real clients are. An effect that has passed the gate still
arrives, but late.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from managed_session_operator.domain.errors import ErrorKind, NotLeadingError, OperationError
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.preparation import Report, StepFailure
from managed_session_operator.domain.references import ReferencedValue
from managed_session_operator.domain.values import Reference
from pydantic import SecretStr

from .examples import SESSION
from .gate import Gate, Passage
from .world import EFFECT, World

T = TypeVar("T")


@dataclass
class Link:
    """Connects one process to the world.

    Attributes:
        world: the world that it acts on.
        epoch: its epoch as the leader.
        gate: gate before each of its effects.
        leading: whether it holds the Lease.
        step: name of the step that it is taking.
    """

    world: World
    epoch: int
    gate: Gate = field(default_factory=Gate)
    leading: bool = True
    step: Callable[[], str | None] = lambda: None

    def fence(self) -> None:
        """Raise if the process does not lead."""
        if not self.leading:
            raise NotLeadingError

    async def effect(self, reason: Reason, act: Callable[[], T]) -> T:
        """Change the world."""
        self.fence()
        passage = await self.gate.passes()
        failure = OperationError(ErrorKind.TRANSIENT, reason, "no answer", outcome_known=False)
        if passage is Passage.REFUSED:
            raise failure
        world = self.world
        world.now += EFFECT
        before, world.late = world.late, not self.leading
        try:
            outcome = act()
        finally:
            world.late = before
        if passage is Passage.LOST:
            raise failure
        return outcome


@dataclass(frozen=True)
class WorldClock:
    """The world's time."""

    world: World

    def now(self) -> datetime:
        """Return the wall-clock time."""
        return self.world.now

    def monotonic(self) -> float:
        """Return the same time in seconds."""
        return self.world.now.timestamp()


@dataclass(frozen=True)
class InMemoryStore:
    """The store with the one resource."""

    link: Link

    async def get(self, _: str) -> dict[str, Any] | None:
        """Return the current resource."""
        return None if self.link.world.released else self.link.world.body

    async def pages(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield a page with the one resource."""
        yield [] if self.link.world.released else [self.link.world.body]

    async def create(self, session_id: str, environment_id: str) -> dict[str, Any]:
        """Raise, because no test creates a second resource."""
        raise OperationError(
            ErrorKind.TRANSIENT, Reason.KUBERNETES_CALL_FAILED, f"{session_id} {environment_id}"
        )

    async def patch(self, resource: ManagedSession, body: dict[str, Any]) -> dict[str, Any]:
        """Patch metadata and spec."""
        return await self._write(resource, lambda: self.link.world.patch(body))

    async def patch_status(self, resource: ManagedSession, status: dict[str, Any]) -> dict[str, Any]:
        """Patch the status."""
        return await self._write(resource, lambda: self.link.world.write(**status))

    async def delete(self, resource: ManagedSession) -> dict[str, Any] | None:
        """Request the resource's deletion."""
        world = self.link.world
        await self._write(resource, world.delete)
        return None if world.released else world.body

    async def _write(self, resource: ManagedSession, act: Callable[[], T]) -> T:
        def checked() -> T:
            self.link.world.check(resource)
            return act()

        return await self.link.effect(Reason.KUBERNETES_CALL_FAILED, checked)


@dataclass(frozen=True)
class InMemoryTokens:
    """The token Secret. A late write finds another version of it, and changes nothing."""

    link: Link

    async def put(self, resource: ManagedSession, claim: str, token: SecretStr | None) -> None:
        """Store the token."""
        world, seen = self.link.world, self.link.world.secret_version
        assert resource.spec.session_id == SESSION
        assert token is not None

        def act() -> None:
            if world.secret_version != seen:
                raise OperationError(ErrorKind.TRANSIENT, Reason.KUBERNETES_CALL_FAILED, "another Secret")
            world.put_secret(claim)

        await self.link.effect(Reason.KUBERNETES_CALL_FAILED, act)

    async def get(self, _: str, claim: str) -> tuple[bool, SecretStr | None]:
        """Return the token of the claim."""
        there = self.link.world.secret == claim
        return there, SecretStr(claim) if there else None

    async def delete(self, resource: ManagedSession, claim: str | None = None) -> None:
        """Delete the token."""
        world, seen = self.link.world, self.link.world.secret_version
        assert resource.spec.session_id == SESSION
        if world.secret is None or claim not in (None, world.secret):
            return

        def act() -> None:
            if world.secret_version == seen:
                world.delete_secret()

        await self.link.effect(Reason.KUBERNETES_CALL_FAILED, act)


@dataclass(frozen=True)
class InMemoryReferences:
    """The users' Secrets."""

    link: Link

    async def read(self, reference: Reference) -> SecretStr:
        """Return what the Secret holds."""
        return (await self.read_version(reference, fresh=True)).value

    async def read_version(self, reference: Reference, *, fresh: bool) -> ReferencedValue:
        """Return what the Secret holds, and its version."""
        self.link.fence()
        assert isinstance(fresh, bool)
        found = self.link.world.secrets.get(reference.name)
        if found is None:
            raise OperationError(ErrorKind.USER_ACTION, Reason.REFERENCE_INVALID, "no such Secret")
        return ReferencedValue(SecretStr(found[1]), str(found[0]))


@dataclass(frozen=True)
class InMemoryPreparations:
    """Preparations that succeed unless the world says otherwise. Repeating one changes nothing."""

    link: Link

    async def prepare(self, sandbox: SandboxHandle, plan: Mapping[str, Any], *, purpose: str = "") -> Report:
        """Run the plan."""
        self.link.fence()
        assert plan["sections"]
        assert purpose
        found = self.link.world.get(sandbox.sandbox_id)
        if found is None or not found.running:
            raise OperationError(ErrorKind.TRANSIENT, Reason.SANDBOX_UNREACHABLE, "it does not run")
        self.link.world.prepared_for.append(purpose)
        asked = {name for name, _ in plan["sections"]}
        if self.link.world.preparations_fail and asked & {"setup", "hooks", "outputs"}:
            return Report(StepFailure("setup", "setup.script", "it failed"))
        return Report()


@dataclass
class InMemoryEvents:
    """The posted Events."""

    posted: list[tuple[Reason, str]] = field(default_factory=list)

    def record(
        self, resource: ManagedSession, reason: Reason, message: str, *, warning: bool = False
    ) -> None:
        """Record an Event."""
        assert resource.spec.session_id == SESSION
        assert isinstance(warning, bool)
        self.posted.append((reason, message))
