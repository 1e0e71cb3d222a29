"""Client of the environment's work queue and sessions, with the environment key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from anthropic import AsyncAnthropic
from managed_session_api.names import is_session_id
from pydantic import SecretStr

from managed_session_operator.clients.anthropic.answers import event_of, session_view, work_item
from managed_session_operator.clients.anthropic.requests import Requests, field, path_of, within
from managed_session_operator.clients.anthropic.skill_archives import SkillArchives
from managed_session_operator.clients.anthropic.wire import anthropic_error, fenced_http_client
from managed_session_operator.clients.rotating_key import PLACEHOLDER, RotatingKey
from managed_session_operator.domain.errors import ErrorKind, NotLeadingError, OperationError
from managed_session_operator.domain.offer import Offer, rewrap_session_token
from managed_session_operator.domain.remote_calls import ANTHROPIC, remote_call
from managed_session_operator.domain.session import SessionView
from managed_session_operator.domain.turn import NEWEST_EVENTS, Turn, TurnReader, is_oldest_first
from managed_session_operator.domain.turn_limit import TurnStart
from managed_session_operator.domain.usage import newest_usage
from managed_session_operator.domain.work_item import HealthCheck, WorkItem, WorkList

logger = logging.getLogger(__name__)

_READ_SECONDS = 60.0
"""Timeout for all pages of a list. Reads may outlast a Lease, because they change nothing."""

_USER_EVENTS = (
    "user.message",
    "user.interrupt",
    "user.tool_confirmation",
    "user.tool_result",
    "user.custom_tool_result",
    "user.define_outcome",
)
"""Types of events by which a user gives the session work."""

_PAGE = 100
"""Items per page of a list."""

_NEWEST_PAGE = 20
"""Events per page when reading the newest: the first page contains the end of nearly every turn."""


class WorkQueue:
    """The environment's work queue and sessions.

    Args:
        environment_id: reads the environment's ID.
        key: the environment key.
        worker_id: name of this installation in the queue's statistics.
        fence: raises NotLeadingError if effects must not be sent.
        timeout: timeout of one call in seconds.
        skill_downloads: maximum number of concurrent skill downloads.
    """

    def __init__(
        self,
        environment_id: Callable[[], str],
        key: RotatingKey,
        *,
        worker_id: str,
        fence: Callable[[], None],
        timeout: float,
        skill_downloads: int = 4,
    ) -> None:
        self.skills = SkillArchives(self._call, downloads=skill_downloads)
        self._environment_id = environment_id
        self._key = key
        self._worker_id = worker_id
        self._fence = fence
        self._timeout = timeout
        self._client: AsyncAnthropic | None = None
        self._requests = Requests(lambda: self._connected()[0], key, fence, timeout)

    def _connected(self) -> tuple[AsyncAnthropic, str]:
        # Checked here, because the SDK would report a missing key as a broken connection.
        self._key.candidates()
        if self._client is None:
            self._client = AsyncAnthropic(
                auth_token=PLACEHOLDER,
                timeout=self._timeout,
                max_retries=0,
                http_client=fenced_http_client(self._fence, self._key),
            )
        return self._client, self._environment_id()

    async def close(self) -> None:
        """Close the connections."""
        await self._requests.close()
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    @property
    def environment_id(self) -> str:
        """ID of the environment that this installation serves (raises CredentialError without ID or key)."""
        self._key.candidates()
        return self._environment_id()

    def key_lines(self) -> tuple[SecretStr, ...]:
        """Return the lines of the environment key, to detect changes."""
        return self._key.lines()

    @property
    def environment_key(self) -> SecretStr:
        """The environment key, for sandboxes without a session token if the settings allow that."""
        return self._key.current()

    @property
    def base_url(self) -> str:
        """Anthropic's URL for workers: that of the SDK, including `ANTHROPIC_BASE_URL`."""
        return str(self._connected()[0].base_url).rstrip("/")

    @asynccontextmanager
    async def _call(
        self, operation: str, timeout: float | None = None
    ) -> AsyncIterator[tuple[AsyncAnthropic, str]]:
        self._fence()
        client, environment_id = self._connected()
        with remote_call(ANTHROPIC, operation):
            try:
                async with asyncio.timeout(timeout or self._timeout):
                    yield client, environment_id
            except (OperationError, NotLeadingError):
                raise
            except Exception as error:  # noqa: BLE001 - an odd response must not end the operator
                raise anthropic_error(operation, error) from None

    async def poll(self, *, block_ms: int, reclaim_ms: int) -> Offer | HealthCheck | None:
        """Poll for one item; None if the queue is empty.

        For an entry whose session is gone, the queue answers 404 and drops the entry. The caller then polls
        again at once (`OperationError` of kind NOT_FOUND).
        """
        # Time of the request, so that a response that an acknowledgement overtakes looks older than that.
        asked_at, environment_id = datetime.now(UTC), self.environment_id
        item = await self._requests.call(
            "poll",
            "GET",
            path_of("environments", environment_id, "work", "poll"),
            query=[("block_ms", block_ms), ("reclaim_older_than_ms", reclaim_ms)],
            headers={"Anthropic-Worker-ID": self._worker_id},
        )
        if not item:
            return None
        data, work_id = field(item, "data"), field(item, "id")
        kind, session_id = field(data, "type"), field(data, "id")
        if kind == "healthcheck" and isinstance(work_id, str):
            return HealthCheck(work_id)
        if kind != "session" or not is_session_id(session_id) or not isinstance(work_id, str):
            # Not acknowledged: whoever knows what it is may still do it.
            logger.warning("ignoring work of an unknown kind", extra={"kind": str(kind)[:40]})
            return None
        return Offer(
            work_id=work_id,
            session_id=str(session_id),
            environment_id=environment_id,
            offered_at=asked_at,
            secret=rewrap_session_token(field(item, "secret")),
        )

    async def acknowledge(self, work_id: str) -> bool:
        """Take the item off the queue.

        Returns:
            Whether the item is ours to serve. It is not if it was stopped or another worker serves it. After
            a response 404 or 409, the item's state in the work list decides: it is `starting` if the response
            to our own earlier acknowledgement was lost.
        """
        try:
            await self._requests.call("ack", "POST", self._work_path(work_id, "ack"))
        except OperationError as error:
            if error.status not in (404, 409):
                raise
            return await self.state(work_id) == "starting"
        return True

    async def items(self) -> WorkList:
        """Return the environment's whole work list."""
        asked_at = datetime.now(UTC)
        async with within(_READ_SECONDS, "work list"):
            return WorkList([work_item(item) async for item in self._listed()], asked_at)

    async def item(self, work_id: str) -> WorkItem | None:
        """Return the item from the environment's work list, or None."""
        async with within(_READ_SECONDS, "work list"):
            async for item in self._listed():
                if field(item, "id") == work_id:
                    return work_item(item)
        return None

    async def _listed(self) -> AsyncIterator[Any]:
        """Yield the items of the environment's work list."""
        async for page in self._requests.pages("work list", self._work_path(), [("limit", _PAGE)]):
            for item in page:
                yield item

    def _work_path(self, *parts: str) -> str:
        return path_of("environments", self.environment_id, "work", *parts)

    async def workers_polling(self) -> int | None:
        """Return how many workers polled in the last 30 s, including this one; None if not reported."""
        polling = field(
            await self._requests.call("work stats", "GET", self._work_path("stats")), "workers_polling"
        )
        return polling if isinstance(polling, int) else None

    async def state(self, work_id: str) -> str | None:
        """Return the item's state in the environment's work list, or None."""
        item = await self.item(work_id)
        return item.state if item is not None else None

    async def stop(self, work_id: str) -> None:
        """Force-stop the item. It may already be stopped or gone."""
        try:
            await self._requests.call("stop", "POST", self._work_path(work_id, "stop"), body={"force": True})
        except OperationError as error:
            if error.status not in (404, 409):
                raise

    async def stop_held(self, work_id: str) -> None:
        """Force-stop the item of an acknowledged claim, unless it has already ended.

        All items of a session have the same ID. An item that is queued belongs to the next message and stays.
        """
        if await self.state(work_id) not in ("queued", "stopped", None):
            await self.stop(work_id)

    async def session(self, session_id: str) -> SessionView | None:
        """Return the session; None if it does not exist (any more)."""
        try:
            return session_view(await self._requests.call("session", "GET", path_of("sessions", session_id)))
        except OperationError as error:
            if error.kind is not ErrorKind.NOT_FOUND:
                raise
            return None

    async def has_message(self, session_id: str) -> bool | None:
        """Return whether the session has received a message; True if that cannot be determined.

        None if the session does not exist (any more).

        Raises:
            OperationError: Anthropic's rate limit is reached, so that no sandbox is started because of it.
        """
        try:
            types = [("types[]", each) for each in _USER_EVENTS]
            answer = await self._requests.call(
                "events", "GET", path_of("sessions", session_id, "events"), query=[("limit", _PAGE), *types]
            )
            # The types are checked again: a wrong "no message" would stop a message's work.
            events = field(answer, "data")
            if not isinstance(events, list):
                return True
            received = any(str(field(event, "type")).startswith("user.") for event in events)
            return received or bool(field(answer, "next_page"))
        except OperationError as error:
            if error.kind is ErrorKind.RATE_LIMITED:
                raise
            gone = error.kind is ErrorKind.NOT_FOUND and await self._is_gone(session_id)
            return None if gone else True

    async def _is_gone(self, session_id: str) -> bool:
        try:
            return await self.session(session_id) is None
        except OperationError:
            return False

    async def turn(self, session_id: str) -> Turn | None:
        """Return the state of the session's newest turn, from its newest events; None without a session."""
        try:
            async with within(self._timeout, "events"):
                return await self._read_turn(session_id)
        except OperationError as error:
            if error.kind is not ErrorKind.NOT_FOUND:
                raise
            return None

    async def _read_turn(self, session_id: str) -> Turn:
        """Read the turn from the newest events, page by page, no further than needed."""
        reader, seen, usage = TurnReader(), 0, None
        async for page in self._newest_first(session_id, _NEWEST_PAGE):
            usage = usage or newest_usage(page)
            for event in page:
                seen += 1
                if (turn := reader.read(event)) is not None:
                    return replace(turn, usage=usage)
            if seen >= NEWEST_EVENTS:
                break
        return replace(reader.end(), usage=usage)

    async def _newest_first(self, session_id: str, size: int) -> AsyncIterator[list[Any]]:
        """Yield pages of the session's events, newest first, also if the server ignores the order.

        Old events, taken for the newest, would make the session look stuck.
        """
        pages = self._requests.pages(
            "events", path_of("sessions", session_id, "events"), [("limit", size), ("order", "desc")]
        )
        first = [event_of(each) for each in await anext(pages, [])]
        if is_oldest_first(first):
            rest = [event_of(each) async for page in pages for each in page]
            yield [*first, *rest][::-1]
            return
        yield first
        async for page in pages:
            yield [event_of(each) for each in page]

    async def turn_began(self, session_id: str, *, before: datetime) -> datetime | None:
        """Return when the session's open turn began, or some time of it from before `before`.

        None if no turn is open, or the session does not exist (any more).
        """
        start = TurnStart(before)
        try:
            async with within(_READ_SECONDS, "events"):
                async for page in self._newest_first(session_id, _PAGE):
                    if any(start.read(event) for event in page):
                        break
        except OperationError as error:
            if error.kind is not ErrorKind.NOT_FOUND:
                raise
            return None
        return start.began
