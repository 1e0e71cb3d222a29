"""The ports of E2B's snapshots, and of the cleaning of sandboxes, in memory."""

from __future__ import annotations

from dataclasses import dataclass

from managed_session_api.conditions import Reason
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SandboxHandle

from .in_memory_ports import Link
from .world import NotRunningError


@dataclass(frozen=True)
class InMemorySnapshots:
    """The team's snapshots. Their IDs are their names."""

    link: Link

    async def take(self, sandbox_id: str, name: str) -> str:
        """Take a snapshot."""

        def act() -> str:
            try:
                return self.link.world.take_snapshot(sandbox_id, name)
            except NotRunningError:
                raise OperationError(ErrorKind.NOT_FOUND, Reason.SANDBOX_VANISHED, "gone") from None

        return await self.link.effect(Reason.SNAPSHOT_FAILED, act)

    def taking(self, _: str, name: str) -> bool:
        """Return False, because a snapshot is taken at once or never."""
        assert name
        return False

    async def find(self, name: str) -> str | None:
        """Return the snapshot of this name."""
        self.link.fence()
        return name if name in self.link.world.snapshots else None

    async def delete(self, snapshot_id: str) -> bool:
        """Delete a snapshot, unless a sandbox was created from it."""
        world = self.link.world

        def act() -> bool:
            if any(each.alive and each.template == snapshot_id for each in world.sandboxes):
                return False
            world.snapshots.pop(snapshot_id, None)
            return True

        return await self.link.effect(Reason.SNAPSHOT_FAILED, act)


@dataclass(frozen=True)
class InMemoryCleaning:
    """What another session has left in a sandbox."""

    link: Link

    async def clean(self, sandbox: SandboxHandle) -> None:
        """End the processes of the other session."""
        world = self.link.world

        def act() -> None:
            try:
                world.reached(sandbox.sandbox_id).unclean = False
            except NotRunningError:
                raise OperationError(ErrorKind.NOT_FOUND, Reason.SANDBOX_VANISHED, "gone") from None

        await self.link.effect(Reason.SANDBOX_UNREACHABLE, act)
