"""Compares the ManagedSandboxes with E2B's list and with the sessions that refer to them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from managed_session_api import names
from managed_session_api.managed_sandbox import ManagedSandbox, SharedState
from managed_session_api.resource import SandboxState

from managed_session_operator.domain.errors import ConflictError, OperationError, UnderWayError
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.domain.shared_sandbox import (
    adoptable,
    belongs_to,
    is_abandoned,
    is_superseded,
    shared_metadata,
)
from managed_session_operator.resync.orphan_kill import kill_orphan
from managed_session_operator.resync.orphans import Orphans
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.sandbox_connection import BUSY, STRICT_PAUSES
from managed_session_operator.steps.shared_sandbox import at_work, end, is_wanted, pause_idle

logger = logging.getLogger(__name__)


class SharedSandboxes:
    """Makes up for what a leader that died has not done about shared sandboxes, and for missed events.

    What looks odd once may be about to change. So nothing is done about it before the next resync finds the
    same, and then only if the newest version of the resource confirms it.

    Args:
        context: the operator's context.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._orphans, self._unused = (
            Orphans(context.settings.orphan_grace_seconds, context.clock.monotonic) for _ in range(2)
        )
        self._odd: set[str] = set()
        self._refused_pauses = Counter[str]()

    async def compare(self, listed: Mapping[str, SandboxView], *, whole: bool) -> None:
        """Compare once.

        Args:
            listed: the shared sandboxes of E2B's list, by ID.
            whole: whether the list was read to its end.
        """
        try:
            owners = await self._context.sharing.list()
        except OperationError as error:
            # As while the pods are newer than the Roles. The other sandboxes do not depend on it.
            logger.warning("shared sandboxes not listed", extra={"cause": str(error)})
            return
        if owners is None:
            # Without the kind nothing can be said about its sandboxes.
            return
        await self._kill_orphans(listed, owners, whole=whole)
        before, self._odd = self._odd, set()
        given_up = self._given_up(owners)
        for owner in owners.values():
            try:
                if owner.metadata.name in given_up:
                    await self._end(owner.metadata.name)
                else:
                    await self._settle(owner, listed, before)
            except (OperationError, UnderWayError, ConflictError) as error:
                logger.warning(
                    "shared sandbox not settled",
                    extra={"owner": owner.metadata.name, "cause": str(error) or type(error).__name__},
                )

    def _given_up(self, owners: Mapping[str, ManagedSandbox]) -> set[str]:
        """Return the names of those that are deleted, or that no session needs, as `Orphans` judges it.

        A backup may restore a ManagedSandbox long before the sessions that share it.
        """
        unused = {name for name, owner in owners.items() if not is_wanted(self._context, owner)}
        found = {name: owners[name].identity for name in unused}
        used = {owner.identity for name, owner in owners.items() if name not in unused}
        deleted = {name for name, owner in owners.items() if owner.metadata.deletion_timestamp is not None}
        return self._unused.given_up(found, used) | deleted

    def _twice(self, odd: str, before: set[str]) -> bool:
        """Note something odd. Return whether the resync before found it too."""
        self._odd.add(odd)
        return odd in before

    async def _kill_orphans(
        self, listed: Mapping[str, SandboxView], owners: Mapping[str, ManagedSandbox], *, whole: bool
    ) -> None:
        """Kill sandboxes whose ManagedSandbox is gone, or uses another or none."""
        found = {
            view.sandbox_id: view.metadata.get(names.METADATA_RESOURCE_UID, "")
            for view in listed.values()
            if _is_unneeded(owners.get(view.metadata[names.METADATA_SHARED]), view)
        }
        identities = {each.identity for each in owners.values()}
        for sandbox_id in self._orphans.given_up(found, identities, whole=whole):
            view = listed[sandbox_id]
            owner_name = view.metadata[names.METADATA_SHARED]
            async with self._context.sharing.lock(owner_name):
                if _is_unneeded(await self._context.sharing.find(owner_name), view):
                    await kill_orphan(self._context, sandbox_id)

    async def _settle(
        self, owner: ManagedSandbox, listed: Mapping[str, SandboxView], before: set[str]
    ) -> None:
        """Pause a sandbox that runs for nobody, and record what else has been missed."""
        context, name, status = self._context, owner.metadata.name, owner.status
        sessions = len(context.records.cache.sharing(name))
        if status.sessions != sessions:
            await context.sharing.write(owner, sessions=sessions)
        for sandbox_id in status.vanished:
            view = listed.get(sandbox_id)
            if view is not None and not view.paused:
                await context.sandboxes.pause(sandbox_id)
        if at_work(context, name) or self._is_joined(name):
            return
        view = listed.get(status.id or "")
        runs = view is not None and not view.paused
        stuck = status.state is SharedState.CREATING
        if (runs or stuck) and self._twice(f"idle {owner.identity}", before):
            await self._rest(name)

    def _is_joined(self, name: str) -> bool:
        """Return whether a session is about to get the sandbox."""
        cache = self._context.records.cache
        joining = (cache.get(each) for each in cache.sharing(name))
        return any(
            each is not None and each.status.sandbox.state is SandboxState.CREATING for each in joining
        )

    async def _end(self, name: str) -> None:
        context = self._context
        async with context.sharing.lock(name):
            owner = await context.sharing.find(name)
            if owner is None:
                return
            if owner.metadata.deletion_timestamp is not None or not is_wanted(context, owner):
                await end(context, owner)

    async def _rest(self, name: str) -> None:
        """Find out what became of a create, and pause the sandbox."""
        context = self._context
        async with context.sharing.lock(name):
            owner = await context.sharing.find(name)
            if owner is None or at_work(context, name) or self._is_joined(name):
                return
            if owner.status.id is None and owner.status.state is SharedState.CREATING:
                views = await context.sandboxes.list(shared_metadata(owner, context.installation_id))
                found = adoptable(owner, views)
                owner = await context.sharing.write(
                    owner,
                    id=found[0].sandbox_id if found else None,
                    state=SharedState.RUNNING if found else None,
                )
            await self._pause(owner)

    async def _pause(self, owner: ManagedSandbox) -> None:
        """Pause as for a session: after several refusals, a state that can only be rebooted is accepted."""
        refused = self._refused_pauses
        try:
            await pause_idle(self._context, owner, strict=refused[owner.identity] < STRICT_PAUSES)
        except OperationError as error:
            refused[owner.identity] += error.status == BUSY
            raise
        del refused[owner.identity]


def _is_unneeded(owner: ManagedSandbox | None, view: SandboxView) -> bool:
    """Return whether no ManagedSandbox uses or will use the sandbox."""
    if owner is None or not belongs_to(view, owner):
        return True
    return is_superseded(owner, view) or is_abandoned(owner, view)
