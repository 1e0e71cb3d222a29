"""Makes true what events only make fast: compares E2B's list and the work list with the resources."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from managed_session_api import names
from managed_session_api.names import is_session_id
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_runtime.credentials import CredentialError

from managed_session_operator.clients.sandboxes import SandboxView
from managed_session_operator.context import Context
from managed_session_operator.decisions import GIVEN_BACK, claim_active
from managed_session_operator.failures import ConflictError, Failure, NotLeadingError, ResourceGoneError
from managed_session_operator.lost_leases import LostLeases
from managed_session_operator.orphans import Orphans
from managed_session_operator.ownership import Owners
from managed_session_operator.work_list import WorkItem

logger = logging.getLogger(__name__)

_KILLS_AT_ONCE = 16
"""Orphans that are killed side by side: thousands of them must not hold up the next sweep for long."""

_POLLERS_EVERY = 5
"""Of the slow check's questions each n-th is how many workers poll the queue."""


class Sweep:
    """Finds sandboxes that no resource has, resources whose sandbox is gone, and missed changes.

    Args:
        context: the operator's context.
        enqueue: asks for a reconcile of the named resource.
        on_turn: called before each sweep.
    """

    def __init__(
        self,
        context: Context,
        enqueue: Callable[[str], None],
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._context = context
        self._enqueue = enqueue
        self._on_turn = on_turn
        self._orphans = Orphans(context.settings.orphan_grace_seconds)
        self._running: set[str] = set()
        self._paused: set[str] = set()
        self._unstarted: dict[str, tuple[WorkItem, datetime]] = {}
        self._lost_leases = LostLeases()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            self._on_turn()
            try:
                await self.sweep()
                self._context.metrics.sweeps.labels("ok").inc()
                self._context.metrics.last_sweep.set(time.time())
            except (Failure, NotLeadingError, ResourceGoneError, CredentialError) as error:
                self._context.metrics.sweeps.labels("failed").inc()
                logger.warning("sweep failed", extra={"cause": str(error)})
            except Exception:
                self._context.metrics.sweeps.labels("failed").inc()
                logger.exception("sweep failed unexpectedly")
            await asyncio.sleep(self._context.settings.sweep_seconds * random.uniform(0.8, 1.0))

    async def sweep(self) -> None:
        """One comparison: the lists are read first, so that a resource is never older than what they name."""
        context = self._context
        await self._read_work_list()
        began = context.now()
        try:
            views = await context.sandboxes.list({names.METADATA_INSTALLATION: context.installation_id})
        except (Failure, CredentialError):
            # E2B is away: a watch event may have been missed all the same.
            await self._relist()
            await self._note_unstarted()
            self._enqueue_all()
            raise
        await self._relist()
        await self._note_unstarted()
        owners = Owners(context.store)
        listed: dict[str, set[str]] = {}
        suspects: dict[str, SandboxView] = {}
        surplus: list[tuple[ManagedSession, SandboxView]] = []
        running: set[str] = set()
        paused: set[str] = set()
        for view in self._understood(views):
            resource = owners.of(view)
            if resource is None or self._is_stray(resource, view):
                suspects[view.sandbox_id] = view
                continue
            if self._is_surplus(resource, view):
                surplus.append((resource, view))
                continue
            listed.setdefault(resource.metadata.uid, set()).add(view.sandbox_id)
            context.memory(resource.metadata.name).forgotten = self._is_forgotten(resource, view)
            self._note_period(resource, view, began)
            if self._runs_unneeded(resource, view):
                running.add(view.sandbox_id)
                memory = context.memory(resource.metadata.name)
                memory.running_unexpectedly = view.sandbox_id in self._running
            elif view.paused and self._works(resource):
                paused.add(view.sandbox_id)
                if view.sandbox_id in self._paused:
                    # Its stream may hang for ever: the next look finds out, and wakes it.
                    await context.runs.forget(resource.metadata.name)
        for resource in context.store.all():
            sandbox_id = resource.status.sandbox.id
            if sandbox_id is not None and sandbox_id not in listed.get(resource.metadata.uid, set()):
                context.memory(resource.metadata.name).missing = True
        self._running, self._paused = running, paused
        self._enqueue_all()
        await self._kill_surplus(surplus)
        await self._kill_orphans(suspects)

    def _understood(self, views: list[SandboxView]) -> list[SandboxView]:
        """Without the sandboxes of resources that another version wrote and that only it can judge."""
        store = self._context.store
        hidden = store.identities() - {resource.identity for resource in store.all()}
        return [view for view in views if view.metadata.get(names.METADATA_RESOURCE_UID) not in hidden]

    async def _read_work_list(self) -> None:
        """Read the environment's work list; the rest of the sweep goes on without it."""
        context = self._context
        try:
            context.work_list = await context.queue.items()
        except (Failure, CredentialError) as error:
            context.metrics.sweeps.labels("no_work_list").inc()
            logger.warning("work list not read", extra={"cause": str(error)})

    async def _note_unstarted(self) -> None:
        """Find acknowledged work that nobody starts: in two lists in a row, and no claim of ours."""
        context, items = self._context, self._context.work_list
        if items is None:
            return
        before, self._unstarted = self._unstarted, {}
        asked = items.asked_at
        foreign = {item.work_id for item in items.items if self._is_served_elsewhere(item, asked)}
        context.rivals.listed(foreign, items.asked_at)
        for item in (item for item in items.items if item.unstarted):
            resource = self._resource_of(item)
            if resource is not None and claim_active(resource):
                continue
            first = before.get(item.work_id)
            same = first is not None and first[0].acknowledged_at == item.acknowledged_at
            since = first[1] if first is not None and same else items.asked_at
            self._unstarted[item.work_id] = (item, since)
            if since < items.asked_at and resource is None:
                await self._take_in(item)
        for resource in context.store.all():
            found = items.of_session(resource.spec.session_id)
            noted = self._unstarted.get(found.work_id) if found is not None else None
            context.memory(resource.metadata.name).unstarted_since = noted[1] if noted is not None else None
        for resource, item in self._lost_leases.found(context.store.all(), items):
            await self._end_worker(resource, requeued=item.state == "queued")

    async def _end_worker(self, resource: ManagedSession, *, requeued: bool) -> None:
        """End a worker that has lost its lease, and listen anew: the next look learns of its end.

        One whose item is stopped ends by itself.
        """
        context, name, claim = self._context, resource.metadata.name, resource.status.work.claim
        sandbox = context.memory(name).sandbox
        logger.warning("a worker holds its work no more", extra={"resource": name, "claim": claim})
        try:
            if requeued and sandbox is not None and claim is not None:
                await context.runs.stop(sandbox, claim, context.epoch())
        except (Failure, CredentialError) as error:
            logger.warning("worker not stopped", extra={"claim": claim, "cause": str(error)})
        if context.runs.get(name, claim) is not None:
            # And not the stream of a claim that has come meanwhile.
            await context.runs.forget(name)

    def _is_served_elsewhere(self, item: WorkItem, asked_at: datetime) -> bool:
        """Whether a worker holds the item that is not, and was not when it was listed, one of ours."""
        if item.state != "active" or item.session_id is None:
            return False
        resource = self._resource_of(item)
        if resource is None:
            return True
        work = resource.status.work
        ended_since = work.finished_at is not None and work.finished_at >= asked_at
        lapses = work.exit_reason not in (None, *GIVEN_BACK)
        return not (claim_active(resource) or ended_since or lapses)

    def _resource_of(self, item: WorkItem) -> ManagedSession | None:
        store = self._context.store
        name = store.serving_name(item.session_id) if item.session_id is not None else None
        return store.get(name) if name is not None else None

    async def _take_in(self, item: WorkItem) -> None:
        """Make the resource of a session whose work is stranded; a stranded health check is just stopped."""
        context = self._context
        try:
            if item.session_id is None or not is_session_id(item.session_id):
                await context.queue.stop(item.work_id)
                return
            body = await context.resources.create(item.session_id, context.queue.environment_id)
        except (ConflictError, ResourceGoneError, Failure) as error:
            logger.warning("stranded work not taken in", extra={"work": item.work_id, "cause": str(error)})
            return
        context.store.observe(body)
        context.memory(body["metadata"]["name"]).made_here = body["metadata"]["uid"]

    def _enqueue_all(self) -> None:
        for name in self._context.store.names():
            self._enqueue(name)

    async def _relist(self) -> None:
        """Know every resource as the API server has it now; what has vanished is looked at."""
        context = self._context
        known = set(context.store.names())
        for name in context.store.replace_all(await context.resources.list(), known):
            self._enqueue(name)
        context.metrics.resources.set(len(context.store))

    @staticmethod
    def _is_surplus(resource: ManagedSession, view: SandboxView) -> bool:
        """Whether the resource has settled on another sandbox than this one, which nobody will ever need.

        One of a later attempt than the status knows of is needed: the status came from an old backup.
        """
        sandbox = resource.status.sandbox
        settled = sandbox.id is not None and sandbox.state is not SandboxState.CREATING
        return settled and sandbox.id != view.sandbox_id and view.attempt <= sandbox.attempt

    @classmethod
    def _is_stray(cls, resource: ManagedSession, view: SandboxView) -> bool:
        """Whether the resource has no sandbox; its next create adopts what is still there then."""
        sandbox = resource.status.sandbox
        settled = sandbox.id is None and sandbox.state is not SandboxState.CREATING
        return settled and not cls._is_forgotten(resource, view)

    @staticmethod
    def _is_forgotten(resource: ManagedSession, view: SandboxView) -> bool:
        """Whether the status was wiped: it knows nothing of the attempt that made the sandbox."""
        sandbox = resource.status.sandbox
        blank = sandbox.id is None and sandbox.state is not SandboxState.CREATING
        return blank and view.attempt > sandbox.attempt

    def _note_period(self, resource: ManagedSession, view: SandboxView, listed_at: datetime) -> None:
        """Know from E2B when the running period began, where the list is newer than our connection."""
        memory = self._context.memory(resource.metadata.name)
        if memory.running_since is not None and memory.running_since < listed_at and not view.paused:
            memory.running_since = view.started_at

    def _runs_unneeded(self, resource: ManagedSession, view: SandboxView) -> bool:
        """Whether the sandbox runs although the resource says that it is paused (twice: it must be)."""
        needed = claim_active(resource) or self._context.memory(resource.metadata.name).sandbox is not None
        return not view.paused and not needed and resource.status.sandbox.state is SandboxState.PAUSED

    def _works(self, resource: ManagedSession) -> bool:
        """Whether this process takes the sandbox for running and serves a claim in it."""
        return claim_active(resource) and self._context.memory(resource.metadata.name).sandbox is not None

    async def _kill_surplus(self, surplus: list[tuple[ManagedSession, SandboxView]]) -> None:
        """Kill at first sight what a resource has settled against, once the API server says so too."""
        for resource, view in surplus:
            try:
                newest = await self._context.refresh(resource)
            except ResourceGoneError:
                continue
            if self._is_surplus(newest, view):
                await self._kill(view.sandbox_id)

    async def _kill_orphans(self, suspects: dict[str, SandboxView]) -> None:
        """Kill what has been without a resource for long enough."""
        found = {each: view.metadata.get(names.METADATA_RESOURCE_UID, "") for each, view in suspects.items()}
        doomed = self._orphans.given_up(found, self._context.store.identities())
        if doomed:
            # Once more from the API server: what is known is as old as this sweep.
            await self._relist()
        owners = Owners(self._context.store)
        side_by_side = asyncio.Semaphore(_KILLS_AT_ONCE)

        async def kill(view: SandboxView) -> None:
            async with side_by_side:
                owner = owners.of(view)
                if owner is None or self._is_stray(owner, view):
                    await self._kill(view.sandbox_id)

        views = self._understood([suspects[sandbox_id] for sandbox_id in doomed])
        await asyncio.gather(*(kill(view) for view in views))

    async def _kill(self, sandbox_id: str) -> bool:
        context = self._context
        logger.warning("killing a sandbox that no resource has", extra={"sandbox": sandbox_id})
        try:
            await context.sandboxes.kill(sandbox_id)
        except Failure as failure:
            logger.warning("sandbox not killed", extra={"sandbox": sandbox_id, "cause": str(failure)})
            return False
        context.metrics.orphans_killed.inc()
        return True


class EndChecks:
    """Asks about idle sessions in turn, so that an end whose webhook was lost is noticed.

    Args:
        context: the operator's context.
        enqueue: asks for a reconcile of the named resource.
    """

    def __init__(self, context: Context, enqueue: Callable[[str], None]) -> None:
        self._context = context
        self._enqueue = enqueue

    async def run(self) -> None:
        """Spend the budget until cancelled."""
        budget = self._context.settings.end_checks_per_minute
        for number in itertools.count(1):
            if not budget:
                break
            await asyncio.sleep(60 / budget)
            if number % _POLLERS_EVERY:
                await self._ask_next()
            else:
                await self._count_pollers()
        await asyncio.Event().wait()

    async def _count_pollers(self) -> None:
        """Ask how many workers poll the environment's queue."""
        context = self._context
        try:
            context.rivals.polled(await context.queue.workers_polling())
        except (Failure, NotLeadingError, CredentialError) as error:
            logger.info("the queue's pollers were not counted", extra={"cause": str(error)})

    async def _ask_next(self) -> None:
        """Mark the idle session that was not asked about for longest, if it is due.

        With an API key one paged list answers for all sessions: only those that it lacks are asked about.
        """
        context, now = self._context, self._context.now()
        patience = timedelta(seconds=context.settings.end_check_seconds)
        due: tuple[float, str] | None = None
        for resource in context.store.all():
            if claim_active(resource) or resource.status.ended_at is not None:
                continue
            name = resource.metadata.name
            asked = (
                context.memory(name).end_asked_at
                or resource.status.last_active_time
                or resource.metadata.creation_timestamp
            )
            if asked is None or now - asked < patience:
                continue
            due = min(due, (asked.timestamp(), name)) if due else (asked.timestamp(), name)
        if due is None or (context.api_key.possible and await self._ask_all()):
            return
        self._check_end(due[1])

    async def _ask_all(self) -> bool:
        """Ask about the sessions that the list of living ones lacks; whether there was a list."""
        context, now = self._context, self._context.now()
        try:
            living = await context.api_key.living()
        except (Failure, NotLeadingError, CredentialError) as error:
            logger.warning(
                "sessions not listed, so they are asked about one by one", extra={"cause": str(error)}
            )
            return False
        resources = list(context.store.all())
        if not any(resource.spec.session_id in living for resource in resources):
            # Rather the list of another workspace than the end of all sessions at once.
            return False
        for resource in resources:
            created = resource.metadata.creation_timestamp
            if resource.spec.session_id in living:
                context.memory(resource.metadata.name).end_asked_at = now
            elif resource.status.ended_at is None and created is not None and created < now:
                self._check_end(resource.metadata.name)
        return True

    def _check_end(self, name: str) -> None:
        memory = self._context.memory(name)
        memory.end_check_due, memory.end_asked_at = True, self._context.now()
        self._enqueue(name)
