"""Reads and writes resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from managed_session_api.conditions import Phase
from managed_session_api.resource import CostStatus, ManagedSession

from managed_session_operator.domain.conditions import ConditionUpdate
from managed_session_operator.domain.cost import NO_PRICES, Added, SandboxPrices, added
from managed_session_operator.domain.errors import ConflictError, ResourceGoneError
from managed_session_operator.domain.ports import Body, Clock, EventSink, SessionStore
from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.status_patch import status_patch
from managed_session_operator.domain.usage import Usage

_MOST_WRITES = 5
"""How often a write is sent again because the resource changed in fields that do not affect the decision."""


class Follower(Protocol):
    """Follows the writes to the resources' statuses."""

    def work_fields(self, resource: ManagedSession, work: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields to write to `status.work`; called with those that are written anyway."""
        ...

    def written(self, before: ManagedSession, after: ManagedSession) -> None:
        """Take note of a write."""
        ...


class SessionRecords:
    """Reads and writes resources, and keeps the newest version of each.

    Args:
        store: the API server.
        cache: the newest version of each resource.
        events: receives the Events of conditions that are announced.
        clock: the time.
        on_status_write: called after each write to a status.
        on_cost: called after each write to a status, with the resource before it and what it has added to the
            session's cost. Not called if the answer to the write was lost.
        prices: what running sandboxes cost.
        followers: follow the writes to the statuses.
    """

    def __init__(
        self,
        store: SessionStore,
        cache: ResourceCache,
        events: EventSink,
        clock: Clock,
        on_status_write: Callable[[], None] = lambda: None,
        on_cost: Callable[[ManagedSession, Added], None] = lambda _, __: None,
        prices: SandboxPrices = NO_PRICES,
        followers: Sequence[Follower] = (),
    ) -> None:
        self.cache = cache
        self._store = store
        self._events = events
        self._clock = clock
        self._on_status_write = on_status_write
        self._on_cost = on_cost
        self._prices = prices
        self._followers = followers

    async def write_status(
        self,
        resource: ManagedSession,
        *,
        phase: Phase | None = None,
        conditions: list[ConditionUpdate] | None = None,
        usage: Usage | None = None,
        **fields: Any,
    ) -> ManagedSession:
        """Write what has changed of the status, in at most one call, and return the newest resource.

        If the resource has changed meanwhile, but not in fields on which the operator decides, the write is
        sent again. Events of announced conditions are posted after the write.

        Raises:
            ConflictError: someone else wrote the operator's part of the status, or the UID changed.
            ResourceGoneError: the resource no longer exists.
        """
        for follower in self._followers:
            if "work" in fields:
                fields["work"] = follower.work_fields(resource, fields["work"])
        for _ in range(_MOST_WRITES):
            patch = status_patch(
                resource,
                self._clock.now(),
                phase=phase,
                conditions=conditions,
                usage=usage,
                prices=self._prices,
                **fields,
            )
            if not patch:
                return resource
            try:
                body = await self._store.patch_status(resource, patch)
            except ConflictError:
                newest = await self.refresh(resource)
                if not _same_basis(resource, newest):
                    raise
                resource = newest
                continue
            self._on_status_write()
            self._on_cost(resource, _added(resource, patch, body))
            written = self.note(body)
            for follower in self._followers:
                follower.written(resource, written)
            for each in conditions or ():
                if each.announced:
                    self._events.record(written, each.reason, each.message, warning=True)
            return written
        raise ConflictError("status")

    async def patch(self, resource: ManagedSession, body: Body) -> ManagedSession:
        """Change metadata or spec (raises as `SessionStore.patch`)."""
        return self.note(await self._store.patch(resource, body))

    async def create(self, session_id: str, environment_id: str) -> ManagedSession:
        """Create the resource of a session whose work was offered (raises ConflictError if it exists)."""
        return self.note(await self._store.create(session_id, environment_id))

    async def delete(self, resource: ManagedSession) -> None:
        """Request the resource's deletion (raises ConflictError if it has changed since it was read)."""
        body = await self._store.delete(resource)
        if body is None:
            self.cache.remove(resource.metadata.name, resource.metadata.uid)
        else:
            self.note(body)

    async def refresh(self, resource: ManagedSession) -> ManagedSession:
        """Read the resource from the API server.

        Raises:
            ResourceGoneError: it is gone, or another one has its name.
        """
        body = await self._store.get(resource.metadata.name)
        if body is None or body["metadata"]["uid"] != resource.metadata.uid:
            self.cache.remove(resource.metadata.name, resource.metadata.uid)
            raise ResourceGoneError(resource.metadata.name)
        return self.note(body)

    async def find(self, name: str) -> None:
        """Read whatever resource has that name now into the cache."""
        body = await self._store.get(name)
        if body is not None:
            self.cache.observe(body)

    async def list_all(self) -> set[str]:
        """Read all resources into the cache. Return the names of those that no longer exist."""
        return await self.cache.replace_all(self._store.pages())

    async def check(self) -> None:
        """Read some resources, to find out whether the API server answers."""
        async for page in self._store.pages():
            for body in page:
                self.cache.observe(body)
            return

    def note(self, body: Body) -> ManagedSession:
        """Keep a resource that the API server sent, unless a newer version is known. Return the newest."""
        self.cache.observe(body)
        newest = self.cache.get(body["metadata"]["name"])
        return newest if newest is not None else ManagedSession.model_validate(body)


def _added(before: ManagedSession, patch: Body, written: Body) -> Added:
    """Return what a write has added to the session's cost: nothing if the CRD does not have the field yet."""
    cost = written.get("status", {}).get("cost") if "cost" in patch else None
    return added(before.status.cost, CostStatus.model_validate(cost)) if cost is not None else Added()


def _same_basis(before: ManagedSession, after: ManagedSession) -> bool:
    """Return whether nothing has changed on which a decision rests.

    Changes by the webhook (the last event) and by users (spec, labels) lead to a new decision anyway.
    """
    irrelevant = {"last_event", "observed_generation"}
    return (
        before.status.model_dump(exclude=irrelevant) == after.status.model_dump(exclude=irrelevant)
        and before.metadata.uid == after.metadata.uid
    )
