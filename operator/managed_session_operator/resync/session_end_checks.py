"""Checks slowly for what no event has reported: ended sessions, and other workers that poll the queue."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from datetime import timedelta

from managed_session_runtime.credentials import CredentialError

from managed_session_operator.domain.budget import budget_reached
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.errors import NotLeadingError, OperationError
from managed_session_operator.domain.shared_environment import SharedEnvironmentDetector
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)

_POLLERS_EVERY = 5
"""Every n-th request asks how many workers poll the queue, instead of asking about a session."""


class SessionEndChecks:
    """Asks about idle sessions in turn, so that an end is noticed even if its event was lost.

    Args:
        context: the operator's context.
        shared_environment: receives the number of workers that poll the queue.
        enqueue: called with the name of each resource to reconcile.
    """

    def __init__(
        self,
        context: Context,
        shared_environment: SharedEnvironmentDetector,
        enqueue: Callable[[str], None],
    ) -> None:
        self._context = context
        self._shared_environment = shared_environment
        self._enqueue = enqueue

    async def run(self) -> None:
        """Send as many requests as the settings allow, until cancelled."""
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
            self._shared_environment.polled(await context.queue.workers_polling())
        except (OperationError, NotLeadingError, CredentialError) as error:
            logger.info("the queue's pollers were not counted", extra={"cause": str(error)})

    async def _ask_next(self) -> None:
        """Check the idle session whose last check is the oldest, if it is due.

        With an API key, one list answers for all sessions: only those that it lacks are checked.
        """
        context, now = self._context, self._context.now()
        patience = timedelta(seconds=context.settings.end_check_seconds)
        due: tuple[float, str] | None = None
        for resource in context.records.cache.all():
            if claim_active(resource) or resource.status.ended_at is not None:
                continue
            name = resource.metadata.name
            asked = (
                context.cache(name).end_asked_at
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
        """Check the sessions that the list of living sessions lacks. Return whether the list is usable."""
        context, now = self._context, self._context.now()
        try:
            living = await context.api_key.living()
        except (OperationError, NotLeadingError, CredentialError) as error:
            logger.warning(
                "sessions not listed, so they are asked about one by one", extra={"cause": str(error)}
            )
            return False
        resources = list(context.records.cache.all())
        if not any(resource.spec.session_id in living for resource in resources):
            # The API key probably belongs to another workspace: all sessions hardly end at once.
            return False
        for resource in resources:
            created = resource.metadata.creation_timestamp
            if resource.spec.session_id in living and not budget_reached(resource):
                context.cache(resource.metadata.name).end_asked_at = now
            elif resource.status.ended_at is None and created is not None and created < now:
                self._check_end(resource.metadata.name)
        return True

    def _check_end(self, name: str) -> None:
        cache = self._context.cache(name)
        cache.end_check_due, cache.end_asked_at = True, self._context.now()
        self._enqueue(name)
