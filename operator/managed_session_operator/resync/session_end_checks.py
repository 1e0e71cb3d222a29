"""Checks slowly for what no event has reported: ended sessions, and other workers that poll the queue."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from managed_session_api.times import to_wire
from managed_session_runtime.credentials import CredentialError

from managed_session_operator.domain.errors import NotLeadingError, OperationError
from managed_session_operator.domain.resource_summary import ResourceSummary
from managed_session_operator.domain.shared_environment import SharedEnvironmentDetector
from managed_session_operator.resync.pace import ALL_AT_ONCE
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)

_POLLERS_EVERY = 5
"""Every n-th request asks how many workers poll the queue, instead of asking about a session."""
_LOOK_SECONDS = 60.0
"""How often to look for sessions that are due, in a large installation."""


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
        self._due: deque[str] = deque()
        self._look_again_at = float("-inf")

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
        name = self._next_due()
        if name is None or (self._context.api_key.possible and await self._ask_all()):
            return
        self._check_end(name)

    def _next_due(self) -> str | None:
        """Return the name of the resource to check next; None if none is due."""
        cache, clock = self._context.records.cache, self._context.clock
        if not self._due and clock.monotonic() >= self._look_again_at:
            asked = ((self._asked_at(each), each.name) for each in cache.summaries())
            self._due.extend(name for at, name in sorted(each for each in asked if each[0] is not None))
            self._look_again_at = clock.monotonic() + (_LOOK_SECONDS if len(cache) > ALL_AT_ONCE else 0)
        while self._due:
            name = self._due.popleft()
            summary = cache.summary(name)
            if summary is not None and self._asked_at(summary) is not None:
                return name
        return None

    def _asked_at(self, summary: ResourceSummary) -> datetime | None:
        """Return when the session was last asked about, or since when it is idle; None if it is not due."""
        if summary.claim_active or summary.ended or not summary.readable:
            return None
        cache = self._context.caches.get(summary.name)
        asked = (cache.end_asked_at if cache is not None else None) or summary.idle_since
        patience = timedelta(seconds=self._context.settings.end_check_seconds)
        return asked if asked is not None and self._context.now() - asked >= patience else None

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
        resources = list(context.records.cache.summaries())
        if not any(resource.session_id in living for resource in resources):
            # The API key probably belongs to another workspace: all sessions hardly end at once.
            return False
        for resource in resources:
            if resource.session_id in living and not resource.budget_reached:
                context.cache(resource.name).end_asked_at = now
            elif not resource.ended and resource.created and resource.created < to_wire(now):
                self._check_end(resource.name)
        return True

    def _check_end(self, name: str) -> None:
        cache = self._context.cache(name)
        cache.end_check_due, cache.end_asked_at = True, self._context.now()
        self._enqueue(name)
