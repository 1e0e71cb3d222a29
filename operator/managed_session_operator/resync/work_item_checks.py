"""Compares the environment's work list with the resources: stranded work, and workers without a lease."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime

from managed_session_api.names import is_session_id
from managed_session_api.resource import ManagedSession
from managed_session_runtime.credentials import CredentialError
from managed_session_worker.protocol import lease_given_back

from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.errors import ConflictError, OperationError, ResourceGoneError
from managed_session_operator.domain.shared_environment import SharedEnvironmentDetector
from managed_session_operator.domain.work_item import WorkItem, WorkList
from managed_session_operator.resync.lost_leases import LostLeases
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)


class WorkItemChecks:
    """Compares each work list with the resources, and remembers what the list before showed.

    Args:
        context: the operator's context.
        shared_environment: receives the work that somebody else serves.
    """

    def __init__(self, context: Context, shared_environment: SharedEnvironmentDetector) -> None:
        self._context = context
        self._shared_environment = shared_environment
        self._unstarted: dict[str, tuple[WorkItem, datetime]] = {}
        self._lost_leases = LostLeases()

    async def read(self) -> None:
        """Read the environment's work list. If that fails, the resync continues without a new one."""
        context = self._context
        try:
            context.listings.work_list = await context.queue.items()
        except (OperationError, CredentialError) as error:
            context.metrics.resyncs.labels("no_work_list").inc()
            logger.warning("work list not read", extra={"cause": str(error)})

    async def compare(self) -> dict[str, datetime]:
        """Find stranded work, and end workers that have lost their lease.

        Returns:
            As `Findings.unstarted`.
        """
        items = self._context.listings.work_list
        if items is None:
            return {}
        before, self._unstarted = self._unstarted, {}
        asked = items.asked_at
        foreign = {item.work_id for item in items.items if self._is_served_elsewhere(item, asked)}
        self._shared_environment.listed(foreign, items.asked_at)
        for item in (item for item in items.items if item.unstarted):
            resource = self._resource_of(item)
            if resource is not None and claim_active(resource):
                continue
            first = before.get(item.work_id)
            same = first is not None and first[0].acknowledged_at == item.acknowledged_at
            since = first[1] if first is not None and same else items.asked_at
            self._unstarted[item.work_id] = (item, since)
            if since < items.asked_at and resource is None:
                await self._create_resource(item)
        unstarted = self._unstarted_by_resource(items)
        for resource, item in self._lost_leases.found(self._served(), items):
            await self._end_worker(resource, requeued=item.state == "queued")
        return unstarted

    def _unstarted_by_resource(self, items: WorkList) -> dict[str, datetime]:
        found = dict[str, datetime]()
        for session_id in {item.session_id for item, _ in self._unstarted.values() if item.session_id}:
            item = items.of_session(session_id)
            noted = self._unstarted.get(item.work_id) if item is not None else None
            if noted is not None:
                found |= {each.name: noted[1] for each in self._context.records.cache.of_session(session_id)}
        return found

    def _served(self) -> Iterator[ManagedSession]:
        """Yield the resources of which a claim is served."""
        cache = self._context.records.cache
        for each in cache.in_motion():
            if each.claim_active and (resource := cache.get(each.name)) is not None:
                yield resource

    async def _end_worker(self, resource: ManagedSession, *, requeued: bool) -> None:
        """End a worker that has lost its lease, and open its stream again to learn of its end.

        A worker whose item is stopped ends by itself.
        """
        context, name, claim = self._context, resource.metadata.name, resource.status.work.claim
        sandbox, run = context.cache(name).sandbox, context.runs.get(name, claim)
        if run is not None and run.record is not None:
            # Its end is known, and its sandbox is being paused.
            return
        logger.warning("a worker has lost its lease", extra={"resource": name, "claim": claim})
        try:
            if requeued and sandbox is not None and claim is not None:
                await context.runs.stop(sandbox, claim, context.epoch())
        except (OperationError, CredentialError) as error:
            logger.warning("worker not stopped", extra={"claim": claim, "cause": str(error)})
        if context.runs.get(name, claim) is not None:
            # The check avoids closing the stream of a newer claim.
            await context.runs.forget(name)

    def _is_served_elsewhere(self, item: WorkItem, asked_at: datetime) -> bool:
        """Return whether the item is held by a worker that is not ours, and was not when it was listed."""
        if item.state != "active" or item.session_id is None:
            return False
        resource = self._resource_of(item)
        if resource is None:
            return True
        work = resource.status.work
        ended_since = work.finished_at is not None and work.finished_at >= asked_at
        lapses = work.exit_reason is not None and not lease_given_back(work.exit_reason)
        return not (claim_active(resource) or ended_since or lapses)

    def _resource_of(self, item: WorkItem) -> ManagedSession | None:
        store = self._context.records.cache
        name = store.serving_name(item.session_id) if item.session_id is not None else None
        return store.get(name) if name is not None else None

    async def _create_resource(self, item: WorkItem) -> None:
        """Create the resource of a session with stranded work. A stranded health check is just stopped."""
        context = self._context
        try:
            if item.session_id is None or not is_session_id(item.session_id):
                await context.queue.stop(item.work_id)
                return
            made = await context.records.create(item.session_id, context.queue.environment_id)
        except (ConflictError, ResourceGoneError, OperationError) as error:
            logger.warning(
                "no resource created for stranded work", extra={"work": item.work_id, "cause": str(error)}
            )
            return
        context.cache(made.metadata.name).made_here = made.metadata.uid
