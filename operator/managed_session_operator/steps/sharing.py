"""Keeps the sessions of one shared sandbox from getting into each other's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from managed_session_api.managed_sandbox import ManagedSandbox
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.errors import ConflictError, ResourceGoneError
from managed_session_operator.domain.ports import Clock, ManagedSandboxStore
from managed_session_operator.domain.shared_sandbox import lost_fields, owner_patch


class Sharing:
    """The ManagedSandboxes, a lock for each, and which of their sessions have detached.

    All that must survive this process is in the resources. The locks only order what the tasks of one leader
    do; each write carries the version on which it is based.

    Args:
        store: the API server.
        clock: the time.
    """

    def __init__(self, store: ManagedSandboxStore, clock: Clock) -> None:
        self.store = store
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}
        self._detached: set[str] = set()

    def lock(self, owner_name: str) -> asyncio.Lock:
        """Return the lock of the ManagedSandbox. Whoever starts, pauses or kills its sandbox holds it."""
        return self._locks.setdefault(owner_name, asyncio.Lock())

    @asynccontextmanager
    async def turn(self, resource: ManagedSession) -> AsyncIterator[None]:
        """Hold the lock of the sandbox that the session shares; nothing for a session with its own."""
        if (owner_name := resource.status.sandbox.shared_by) is None:
            yield
            return
        async with self.lock(owner_name):
            yield

    def detach(self, name: str) -> None:
        """Note that the session called `name` no longer needs the sandbox to run.

        Its status says so only after its turn's end is recorded, and other sessions must not wait for that.
        """
        self._detached.add(name)

    def attach(self, name: str) -> None:
        """Note that the session called `name` needs the sandbox."""
        self._detached.discard(name)

    def is_detached(self, name: str) -> bool:
        """Return whether the session has detached, whatever its status says."""
        return name in self._detached

    async def find(self, owner_name: str) -> ManagedSandbox | None:
        """Return the newest version of the resource; None if there is none."""
        body = await self.store.get(owner_name)
        return ManagedSandbox.model_validate(body) if body is not None else None

    async def list(self) -> dict[str, ManagedSandbox] | None:
        """Return all resources by name; None if the cluster does not have the kind."""
        bodies = await self.store.list()
        if bodies is None:
            return None
        return {body["metadata"]["name"]: ManagedSandbox.model_validate(body) for body in bodies}

    async def write(self, owner: ManagedSandbox, **fields: Any) -> ManagedSandbox:
        """Write what has changed of the status, and return the newest resource.

        Raises:
            ConflictError: the resource has changed or is gone. Nothing may be concluded from it any more.
        """
        patch = owner_patch(owner, self._clock.now(), fields)
        if not patch:
            return owner
        try:
            return ManagedSandbox.model_validate(await self.store.patch_status(owner, patch))
        except ResourceGoneError:
            raise ConflictError(owner.metadata.name) from None

    async def lose(self, owner_name: str, sandbox_id: str) -> None:
        """Record that the sandbox is gone, unless the resource uses another one already."""
        owner = await self.find(owner_name)
        if owner is not None and (fields := lost_fields(owner, sandbox_id)):
            await self.write(owner, **fields)

    def forget_all(self) -> None:
        """Drop what only a leader knows."""
        self._locks.clear()
        self._detached.clear()
