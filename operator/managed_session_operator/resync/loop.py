"""Compares the resources with E2B's list and the work list, so that missed events are made up for."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime

from managed_session_api import names
from managed_session_api.resource import ManagedSession
from managed_session_runtime.credentials import CredentialError

from managed_session_operator.domain.errors import NotLeadingError, OperationError, ResourceGoneError
from managed_session_operator.domain.findings import Findings
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.domain.shared_environment import SharedEnvironmentDetector
from managed_session_operator.domain.shared_sandbox import is_shared
from managed_session_operator.resync.orphan_kill import kill_orphan
from managed_session_operator.resync.orphans import Orphans
from managed_session_operator.resync.ownership import Owners
from managed_session_operator.resync.pace import ListPace, ReconcileRound
from managed_session_operator.resync.sandbox_comparison import (
    Comparison,
    SandboxComparison,
    is_orphaned,
    is_superseded,
)
from managed_session_operator.resync.sandbox_list import SandboxList
from managed_session_operator.resync.shared_sandboxes import SharedSandboxes
from managed_session_operator.resync.vanished_sandboxes import without_vanished
from managed_session_operator.resync.work_item_checks import WorkItemChecks
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)

_KILLS_AT_ONCE = 16
"""Concurrent kills of orphaned sandboxes. Thousands of them must not delay the next resync for long."""


class Resync:
    """Finds orphaned and superseded sandboxes, resources whose sandbox has vanished, and missed changes.

    Args:
        context: the operator's context.
        shared_environment: receives the work that somebody else serves.
        enqueue: called with the name of each resource to reconcile.
        on_turn: called before each resync.
    """

    def __init__(
        self,
        context: Context,
        shared_environment: SharedEnvironmentDetector,
        enqueue: Callable[[str], None],
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._context = context
        self._enqueue = enqueue
        self._on_turn = on_turn
        self._orphans = Orphans(context.settings.orphan_grace_seconds, context.clock.monotonic)
        self._list = SandboxList(context)
        self._work = WorkItemChecks(context, shared_environment)
        self._shared = SharedSandboxes(context)
        self._comparison = SandboxComparison(self._is_connected)
        self._relists, self._round = ListPace(), ReconcileRound()

    def _is_connected(self, name: str) -> bool:
        cache = self._context.caches.get(name)
        return cache is not None and cache.sandbox is not None

    async def run(self) -> None:
        """Resync until cancelled. The new leader has just read all resources."""
        self._relists.note(len(self._context.records.cache))
        while True:
            self._on_turn()
            try:
                await self.resync()
                self._context.metrics.resyncs.labels("ok").inc()
                self._context.metrics.last_resync.set(time.time())
            except (OperationError, NotLeadingError, ResourceGoneError, CredentialError) as error:
                self._context.metrics.resyncs.labels("failed").inc()
                logger.warning("resync failed", extra={"cause": str(error)})
            except Exception:
                self._context.metrics.resyncs.labels("failed").inc()
                logger.exception("resync failed unexpectedly")
            await asyncio.sleep(self._context.settings.resync_interval_seconds * random.uniform(0.8, 1.0))

    async def resync(self) -> None:
        """Compare once. The lists are read before the resources, so that no resource is older than a list."""
        context = self._context
        await self._work.read()
        try:
            listing = await self._list.read()
        except (OperationError, CredentialError):
            # E2B's list is not needed to make up for missed watch events and to compare the work list.
            await self._relist_if_due()
            unstarted = await self._work.compare()
            self._publish(Comparison(), None, unstarted, whole=False)
            raise
        await self._relist_if_due()
        unstarted = await self._work.compare()
        cache = context.records.cache
        owners = Owners(cache)
        shared = {view.sandbox_id: view for view in listing.views if is_shared(view)}
        own = [view for view in listing.views if view.sandbox_id not in shared]
        views = await without_vanished(context, self._understood(own), owners)
        compared = self._comparison.compare(listing, views, owners, cache, shared)
        for name in compared.paused_under_worker:
            # Its stream may be dead without an error. The next reconciliation opens it again and resumes the
            # sandbox.
            await context.runs.forget(name)
        self._publish(compared, listing.asked_at, unstarted, whole=listing.whole)
        await self._kill_superseded(compared.superseded)
        await self._kill_orphans(compared.candidates, whole=listing.whole)
        await self._shared.compare(shared, whole=listing.whole)
        if listing.error is not None:
            raise listing.error

    def _publish(
        self,
        compared: Comparison,
        listed_at: datetime | None,
        unstarted: Mapping[str, datetime],
        *,
        whole: bool,
    ) -> None:
        """Publish the findings. Have the resources reconciled that they concern, and some others."""
        listings = self._context.listings
        before = listings.findings
        listings.findings = Findings(
            number=before.number + 1,
            listed_at=listed_at,
            missing=frozenset(compared.missing) | self._unhandled(before.missing, before, whole=whole),
            running_unneeded=frozenset(compared.running_unneeded),
            unrecorded=frozenset(compared.unrecorded)
            | self._unhandled(before.unrecorded, before, whole=whole),
            periods=compared.periods,
            unstarted=unstarted,
        )
        concerned = self._named(before) | self._named(listings.findings) | self._with_work()
        for name in self._round.choose(self._context.records.cache, concerned, self._basis()):
            self._enqueue(name)

    @staticmethod
    def _named(findings: Findings) -> set[str]:
        """Return the resources about which something was found."""
        noted = findings.missing | findings.running_unneeded | findings.unrecorded
        return set(noted) | findings.periods.keys() | findings.unstarted.keys()

    def _with_work(self) -> set[str]:
        """Return the resources of the sessions that have work."""
        listed, cache = self._context.listings.work_list, self._context.records.cache
        items = listed.items if listed is not None else ()
        working = {each.session_id for each in items if each.session_id and each.state != "stopped"}
        return {each.name for session_id in working for each in cache.of_session(session_id)}

    def _basis(self) -> object:
        """Return what every decision depends on, beside the resource itself and the classes."""
        try:
            return self._context.queue.environment_id
        except CredentialError as error:
            return str(error)

    def _unhandled(self, names: frozenset[str], before: Findings, *, whole: bool) -> frozenset[str]:
        """Return earlier findings that are not handled yet. They hold until a list is read to its end."""
        resources, cache = self._context.records.cache, self._context.cache
        if whole:
            return frozenset()
        return frozenset(each for each in names if resources.has(each) and not cache(each).is_settled(before))

    def _understood(self, views: list[SandboxView]) -> list[SandboxView]:
        """Return the sandboxes without those of resources that only another version can parse."""
        store = self._context.records.cache
        hidden = store.unreadable_identities()
        return [view for view in views if view.metadata.get(names.METADATA_RESOURCE_UID) not in hidden]

    async def _relist_if_due(self) -> None:
        known = self._context.records.cache
        if self._relists.is_due():
            await self._relist()
            self._relists.note(len(known))
        counts = Counter((each.phase, each.ready_reason or "") for each in known.summaries())
        self._context.metrics.resources.set(len(known), counts)

    async def _relist(self) -> None:
        """Read all resources from the API server, and have those reconciled that no longer exist."""
        for name in await self._context.records.list_all():
            self._enqueue(name)

    async def _kill_superseded(self, superseded: list[tuple[ManagedSession, SandboxView]]) -> None:
        """Kill superseded sandboxes at once, if the newest version of the resource confirms it."""
        for resource, view in superseded:
            try:
                newest = await self._context.records.refresh(resource)
            except ResourceGoneError:
                continue
            if is_superseded(newest, view):
                await kill_orphan(self._context, view.sandbox_id)

    async def _kill_orphans(self, candidates: dict[str, SandboxView], *, whole: bool) -> None:
        """Kill sandboxes that have been orphaned for long enough."""
        found = {
            each: view.metadata.get(names.METADATA_RESOURCE_UID, "") for each, view in candidates.items()
        }
        to_kill = self._orphans.given_up(found, self._context.records.cache.identities(), whole=whole)
        if to_kill:
            # Confirm with the API server, because the cache is as old as this resync.
            await self._relist()
        owners = Owners(self._context.records.cache)
        at_once = asyncio.Semaphore(_KILLS_AT_ONCE)

        async def kill(view: SandboxView) -> None:
            async with at_once:
                owner = owners.of(view)
                if owner is None or is_orphaned(owner, view):
                    await kill_orphan(self._context, view.sandbox_id)

        views = self._understood([candidates[sandbox_id] for sandbox_id in to_kill])
        await asyncio.gather(*(kill(view) for view in views))
