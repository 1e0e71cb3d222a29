"""Claims queued work: one long poll while the queue is empty, many side by side while it is not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from managed_session_runtime.credentials import CredentialError

from managed_session_operator.capacity import Capacity
from managed_session_operator.clients.work_queue import HealthCheck, WorkQueue
from managed_session_operator.failures import Failure, Kind, NotLeadingError, retry_delay
from managed_session_operator.metrics import Metrics
from managed_session_operator.offers import OfferInbox
from managed_session_operator.settings import OperatorSettings

logger = logging.getLogger(__name__)

_KEY_LOOK_SECONDS = 1.0
"""Between two looks at the environment key's file while the queue is left alone after a failure."""
_NO_ROOM_SECONDS = 0.1
_FIRST_WINDOW_MARGIN = 5.0
_MOST_GONE = 20
"""Polls in a row answered 404 before that may be a wrong environment rather than ended sessions."""
_GONE_SECONDS = 1.0
_MOST_REFUSED = 3
"""Polls in a row refused as invalid (not for their key) before that is taken for the environment's state."""


class ClaimLoop:
    """Polls the environment's queue and puts offers into the inbox.

    Nothing is acknowledged here: an offer that is lost with this process is made again after the reclaim
    window, which for the first poll of a new leader is little more than its predecessor's Lease.

    Args:
        queue: the work queue.
        inbox: where offers go.
        capacity: bounds how much is asked for.
        on_offer: called with the ID of the session that an offer is for.
        on_turn: called with each poll, and with the seconds that the loop sleeps on purpose.
        on_trouble: called with what the queue says when it serves nobody, and with None when it does.
        settings: windows and concurrency.
        metrics: counts polls.
    """

    def __init__(
        self,
        queue: WorkQueue,
        inbox: OfferInbox,
        capacity: Capacity,
        on_offer: Callable[[str], None],
        on_trouble: Callable[[str | None], None],
        on_turn: Callable[[float], None],
        settings: OperatorSettings,
        metrics: Metrics,
    ) -> None:
        self._queue = queue
        self._inbox = inbox
        self._capacity = capacity
        self._on_offer = on_offer
        self._on_trouble = on_trouble
        self._on_turn = on_turn
        self._trouble = False
        self._settings = settings
        self._metrics = metrics
        self._failures = 0
        self._gone = 0
        self._polling = 0
        self._window_ms = 0
        self._rests_until = 0.0

    def _room(self) -> int:
        """How many more items could be served."""
        return self._capacity.claimable(self._inbox.resource_names()) - self._polling

    async def run(self) -> None:
        """Poll until cancelled.

        The first polls reclaim what another leader held after little more than its Lease; later ones only
        what is older than the slowest provisioning. (Our own un-acknowledged items come again too at first,
        which refreshes their tokens.)
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
        """Poll side by side until the queue comes back empty or there is no more room."""
        width = min(self._settings.poll_concurrency, self._room())
        if width <= 0:
            return
        async with asyncio.TaskGroup() as tasks:
            for _ in range(width):
                tasks.create_task(self._poll_until_empty())

    async def _poll_until_empty(self) -> None:
        while self._room() > 0 and not self._resting() and await self._poll(1):
            pass

    def _resting(self) -> bool:
        """Whether one of the polls was refused and the queue is to be left alone, by all of them."""
        return asyncio.get_running_loop().time() < self._rests_until

    async def _poll(self, block_ms: int) -> bool:
        """One poll; whether the queue may have more. A failing queue is asked again after a growing delay."""
        self._polling += 1
        self._on_turn(0.0)
        try:
            item = await self._queue.poll(block_ms=block_ms, reclaim_ms=self._window_ms)
        except Failure as failure:
            if failure.kind is Kind.GONE:
                return await self._gone_entry(failure)
            await self._back_off(failure)
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
        self._note_trouble(None)
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

    async def _gone_entry(self, failure: Failure) -> bool:
        """An entry of a session that is gone was consumed: the queue goes on, slower if it stays so."""
        self._gone += 1
        self._metrics.polls.labels("gone").inc()
        if self._gone <= _MOST_GONE:
            return True
        self._note_trouble(failure)
        await asyncio.sleep(_GONE_SECONDS * self._settings.retry_scale)
        return False

    def _note_trouble(self, failure: Failure | None) -> None:
        """Say once that the queue serves nobody any more, and once that it does again."""
        if (failure is not None) == self._trouble:
            return
        self._trouble = failure is not None
        if failure is not None:
            logger.warning("the queue serves nobody", extra={"cause": failure.message})
        else:
            logger.info("the queue answers again")
        self._on_trouble(failure.message if failure is not None else None)

    async def _back_off(self, failure: Failure) -> None:
        if not self._resting():
            self._failures += 1
        if failure.kind is Kind.PERSON and failure.status == 400 and self._failures >= _MOST_REFUSED:
            self._note_trouble(failure)
        delay = retry_delay(failure, max(1, self._failures), self._settings.retry_scale)
        self._metrics.failures.labels(str(failure.reason)).inc()
        await self._back_off_for(str(failure), delay)

    async def _back_off_for(self, cause: str, delay: float) -> None:
        self._metrics.polls.labels("failed").inc()
        logger.warning("poll failed", extra={"cause": cause, "again": round(delay, 1)})
        self._rests_until = max(self._rests_until, asyncio.get_running_loop().time() + delay)
        self._on_turn(delay)
        before, loop = self._queue.key_lines(), asyncio.get_running_loop()
        until = loop.time() + delay
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, _KEY_LOOK_SECONDS))
            if self._queue.key_lines() != before:
                # Somebody has replaced or added the key: no reason to wait any longer.
                self._failures, self._rests_until = 0, 0.0
                return

    async def _answer_health_check(self, item: HealthCheck) -> None:
        try:
            if await self._queue.acknowledge(item.work_id):
                await self._queue.stop(item.work_id)
        except (Failure, NotLeadingError, CredentialError) as error:
            logger.warning("health check not answered", extra={"work": item.work_id, "cause": str(error)})
