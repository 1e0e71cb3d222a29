"""Polls the queue for work: with one long poll while it is empty, with concurrent polls while it is not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from managed_session_runtime.credentials import CredentialError

from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.domain.errors import ErrorKind, NotLeadingError, OperationError, retry_delay
from managed_session_operator.domain.offer import OfferInbox
from managed_session_operator.domain.ports import WorkQueue
from managed_session_operator.domain.work_item import HealthCheck
from managed_session_operator.metrics import Metrics
from managed_session_operator.settings import OperatorSettings

logger = logging.getLogger(__name__)

_KEY_CHECK_SECONDS = 1.0
"""How often to read the environment key's file while polling is paused after an error."""
_NO_ROOM_SECONDS = 0.1
_FIRST_WINDOW_MARGIN = 5.0
_MOST_GONE = 20
"""Consecutive answers 404 that may be due to ended sessions. After more, the environment may be wrong."""
_GONE_SECONDS = 1.0
_MOST_REFUSED = 3
"""Consecutive polls rejected as invalid after which the environment counts as unavailable."""


class WorkPoller:
    """Polls the environment's queue and puts offers into the inbox.

    Offers are not acknowledged here. If one is lost with this process, the queue offers the work again after
    the reclaim window. For the first polls of a new leader, that is little more than a Lease's duration.

    Args:
        queue: the work queue.
        inbox: receives the offers.
        capacity: limits how many items are requested.
        on_offer: called with the session's ID of each offer.
        on_turn: called with each poll, and with the seconds for which the loop sleeps on purpose.
        on_queue_error: called with the error once the queue rejects all polls, with None once it recovers.
        settings: windows and concurrency.
        metrics: counts polls.
    """

    def __init__(
        self,
        queue: WorkQueue,
        inbox: OfferInbox,
        capacity: Capacity,
        on_offer: Callable[[str], None],
        on_queue_error: Callable[[str | None], None],
        on_turn: Callable[[float], None],
        settings: OperatorSettings,
        metrics: Metrics,
    ) -> None:
        self._queue = queue
        self._inbox = inbox
        self._capacity = capacity
        self._on_offer = on_offer
        self._on_queue_error = on_queue_error
        self._on_turn = on_turn
        self._has_error = False
        self._settings = settings
        self._metrics = metrics
        self._failures = 0
        self._gone = 0
        self._polling = 0
        self._window_ms = 0
        self._rests_until = 0.0

    def _room(self) -> int:
        """Return how many more items could be served."""
        return self._capacity.claimable(self._inbox.resource_names()) - self._polling

    async def run(self) -> None:
        """Poll until cancelled.

        The first polls reclaim items that an earlier leader did not acknowledge after little more than its
        Lease's duration. Later polls reclaim only items that are older than the slowest start of a sandbox.
        (At first our own unacknowledged items are offered again too, which refreshes their tokens.)
        """
        settings = self._settings
        usual = settings.reclaim_seconds * 1000
        first_seconds = settings.lease_duration_seconds + _FIRST_WINDOW_MARGIN
        self._window_ms = min(round(first_seconds * 1000), usual)
        loop = asyncio.get_running_loop()
        inherited_until = loop.time() + 2 * first_seconds
        while True:
            self._on_turn(0.0)
            if self._room() <= 0:
                await asyncio.sleep(_NO_ROOM_SECONDS)
                continue
            found = await self._poll(settings.poll_block_milliseconds)
            if found:
                await self._drain()
            if loop.time() > inherited_until:
                self._window_ms = usual

    async def _drain(self) -> None:
        """Poll until the queue is empty or no more items could be served.

        The number of concurrent polls doubles while all of them find items, so that a single item costs few
        polls, and many items are found as fast as the settings allow.
        """
        async with asyncio.TaskGroup() as tasks:
            polling = 0

            def more() -> None:
                nonlocal polling
                if polling < min(self._settings.poll_concurrency, self._room() + self._polling):
                    polling += 1
                    tasks.create_task(poll_until_empty())

            async def poll_until_empty() -> None:
                nonlocal polling
                while self._room() > 0 and not self._resting() and await self._poll(1):
                    more()
                polling -= 1

            more()
            more()

    def _resting(self) -> bool:
        """Return whether all polls pause because one of them was rejected."""
        return asyncio.get_running_loop().time() < self._rests_until

    async def _poll(self, block_ms: int) -> bool:
        """Poll once, with a growing delay after errors. Return whether the queue may have more items."""
        self._polling += 1
        self._on_turn(0.0)
        try:
            item = await self._queue.poll(block_ms=block_ms, reclaim_ms=self._window_ms)
        except OperationError as error:
            if error.kind is ErrorKind.NOT_FOUND:
                return await self._gone_entry(error)
            await self._back_off(error)
            return False
        except NotLeadingError:
            await asyncio.sleep(_NO_ROOM_SECONDS)
            return False
        except CredentialError as error:
            await self._back_off_for(str(error), 5.0 * self._settings.retry_scale)
            return False
        finally:
            self._polling -= 1
        self._failures = self._gone = 0
        self._report_queue_error(None)
        if item is None:
            self._metrics.polls.labels("empty").inc()
            return False
        if isinstance(item, HealthCheck):
            self._metrics.polls.labels("health_check").inc()
            await self._answer_health_check(item)
            return True
        self._metrics.polls.labels("offer").inc()
        self._inbox.put(item)
        self._metrics.offers_waiting.set(len(self._inbox))
        self._on_offer(item.session_id)
        return True

    async def _gone_entry(self, error: OperationError) -> bool:
        """Handle a 404, with which the queue drops the entry of a deleted session. Slow down if it lasts."""
        self._gone += 1
        self._metrics.polls.labels("gone").inc()
        if self._gone <= _MOST_GONE:
            return True
        self._report_queue_error(error)
        await asyncio.sleep(_GONE_SECONDS * self._settings.retry_scale)
        return False

    def _report_queue_error(self, error: OperationError | None) -> None:
        """Report once that the queue rejects all polls, and once that it has recovered."""
        if (error is not None) == self._has_error:
            return
        self._has_error = error is not None
        if error is not None:
            logger.warning("the queue rejects all polls", extra={"cause": error.message})
        else:
            logger.info("the queue answers again")
        self._on_queue_error(error.message if error is not None else None)

    async def _back_off(self, error: OperationError) -> None:
        if not self._resting():
            self._failures += 1
        if error.kind is ErrorKind.USER_ACTION and error.status == 400 and self._failures >= _MOST_REFUSED:
            self._report_queue_error(error)
        delay = retry_delay(error, max(1, self._failures), self._settings.retry_scale)
        self._metrics.failures.labels(str(error.reason)).inc()
        await self._back_off_for(str(error), delay)

    async def _back_off_for(self, cause: str, delay: float) -> None:
        self._metrics.polls.labels("failed").inc()
        logger.warning("poll failed", extra={"cause": cause, "again": round(delay, 1)})
        self._rests_until = max(self._rests_until, asyncio.get_running_loop().time() + delay)
        self._on_turn(delay)
        before, loop = self._queue.key_lines(), asyncio.get_running_loop()
        until = loop.time() + delay
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, _KEY_CHECK_SECONDS))
            if self._queue.key_lines() != before:
                # The key has been changed, so the next poll may succeed.
                self._failures, self._rests_until = 0, 0.0
                return

    async def _answer_health_check(self, item: HealthCheck) -> None:
        try:
            if await self._queue.acknowledge(item.work_id):
                await self._queue.stop(item.work_id)
        except (OperationError, NotLeadingError, CredentialError) as error:
            logger.warning("health check not answered", extra={"work": item.work_id, "cause": str(error)})
