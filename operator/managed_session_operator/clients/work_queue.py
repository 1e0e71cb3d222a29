"""Anthropic's side: the environment's work queue and its sessions, with the environment key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anthropic import AsyncAnthropic
from anthropic.lib.environments import download_session_skills
from anthropic.types.beta.sessions import BetaManagedAgentsSessionEventType
from managed_session_api.names import is_session_id
from managed_session_api.times import as_utc
from pydantic import SecretStr

from managed_session_operator.clients.anthropic_wire import anthropic_failure, fenced_http_client
from managed_session_operator.clients.rotating_key import PLACEHOLDER, RotatingKey
from managed_session_operator.failures import Failure, Kind, NotLeadingError
from managed_session_operator.offers import Offer, rewrap_session_token
from managed_session_operator.turns import NEWEST_EVENTS, Turn, TurnReader, is_oldest_first, read_turn
from managed_session_operator.work_list import WorkItem, WorkList

logger = logging.getLogger(__name__)

_READ_SECONDS = 60.0
"""For all pages of a list, and for a download: they change nothing and so may outlast a Lease."""

_USER_EVENTS: list[BetaManagedAgentsSessionEventType] = [
    "user.message",
    "user.interrupt",
    "user.tool_confirmation",
    "user.tool_result",
    "user.custom_tool_result",
    "user.define_outcome",
]
"""Events by which somebody has set the session to work."""

_PAGE = 100
"""Items of one page of a list."""

_NEWEST_PAGE = 20
"""Events of one page where the newest are wanted: the first page holds the end of nearly every turn."""


@dataclass(frozen=True)
class HealthCheck:
    """An item that only asks whether somebody polls: acknowledge and stop it."""

    work_id: str


@dataclass(frozen=True)
class SessionView:
    """What the operator reads of a session (`GET /v1/sessions/{id}`)."""

    session_id: str
    environment_id: str
    agent_id: str | None
    status: str
    archived: bool
    has_skills: bool

    @property
    def ended(self) -> bool:
        """Terminated and archived sessions never run again."""
        return self.archived or self.status == "terminated"


_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def _time(text: str | None) -> datetime | None:
    """The time; None also for one that can't be read: one odd item must not hide all others of a list."""
    try:
        return as_utc(datetime.fromisoformat(text.upper())) if text else None
    except (ValueError, AttributeError):
        return None


def _work_item(item: Any) -> WorkItem:
    return WorkItem(
        work_id=item.id,
        session_id=item.data.id if getattr(item.data, "type", None) == "session" else None,
        state=str(item.state),
        created_at=_time(item.created_at) or _LONG_AGO,
        acknowledged_at=_time(item.acknowledged_at),
        latest_heartbeat_at=_time(item.latest_heartbeat_at),
    )


class WorkQueue:
    """The environment's work queue and sessions.

    Args:
        environment_id: returns the environment's ID, read afresh.
        key: the environment key, read afresh by each call.
        worker_id: names this installation in the queue's statistics.
        fence: raises NotLeadingError when effects must not be sent.
        timeout: seconds for one call.
    """

    def __init__(
        self,
        environment_id: Callable[[], str],
        key: RotatingKey,
        *,
        worker_id: str,
        fence: Callable[[], None],
        timeout: float,
    ) -> None:
        self._environment_id = environment_id
        self._key = key
        self._worker_id = worker_id
        self._fence = fence
        self._timeout = timeout
        self._client: AsyncAnthropic | None = None

    def _connected(self) -> tuple[AsyncAnthropic, str]:
        # Here a missing key is said as what it is; within a request the SDK calls it a broken connection.
        self._key.candidates()
        if self._client is None:
            self._client = AsyncAnthropic(
                auth_token=PLACEHOLDER,
                timeout=self._timeout,
                max_retries=0,
                http_client=fenced_http_client(self._fence, self._key),
            )
        return self._client, self._environment_id()

    @property
    def environment_id(self) -> str:
        """The environment that this installation serves; raises CredentialError without its ID or its key."""
        self._key.candidates()
        return self._environment_id()

    def key_lines(self) -> tuple[SecretStr, ...]:
        """What is written down as the environment key, to notice a change."""
        return self._key.lines()

    @property
    def environment_key(self) -> SecretStr:
        """The environment key (needed by nobody but the explicit opt-in of sandboxes without a token)."""
        return self._key.current()

    @property
    def base_url(self) -> str:
        """Where workers reach Anthropic: the SDK's own address, `ANTHROPIC_BASE_URL` included."""
        return str(self._connected()[0].base_url).rstrip("/")

    @asynccontextmanager
    async def _call(
        self, operation: str, timeout: float | None = None
    ) -> AsyncIterator[tuple[AsyncAnthropic, str]]:
        self._fence()
        client, environment_id = self._connected()
        try:
            async with asyncio.timeout(timeout or self._timeout):
                yield client, environment_id
        except (Failure, NotLeadingError):
            raise
        except Exception as error:  # noqa: BLE001 - an odd answer must not end the operator
            raise anthropic_failure(operation, error) from None

    async def poll(self, *, block_ms: int, reclaim_ms: int) -> Offer | HealthCheck | None:
        """Ask for one item.

        Returns None for an empty queue. An entry whose session is gone is answered 404 and consumed by the
        queue, so that counts as an item: the caller asks again at once (`Failure` of kind GONE).
        """
        # The time of the question: an answer that an acknowledgement overtakes must look older than that.
        asked_at = datetime.now(UTC)
        async with self._call("poll") as (client, environment_id):
            item: Any = await client.beta.environments.work.poll(
                environment_id,
                block_ms=block_ms,
                reclaim_older_than_ms=reclaim_ms,
                anthropic_worker_id=self._worker_id,
            )
            if not item:
                return None
            data = item.data
            kind = getattr(data, "type", None)
            if kind == "healthcheck":
                return HealthCheck(item.id)
            if kind != "session" or not is_session_id(data.id):
                # Not acknowledged: whoever knows what it is may still do it.
                logger.warning("work of an unknown kind is left in the queue", extra={"kind": str(kind)[:40]})
                return None
            return Offer(
                work_id=item.id,
                session_id=data.id,
                environment_id=environment_id,
                offered_at=asked_at,
                secret=rewrap_session_token(item.secret),
            )

    async def acknowledge(self, work_id: str) -> bool:
        """Take the item off the queue.

        Returns:
            True when the item is ours to serve. False when it is not any more (stopped, or served by
            another worker). An answer 404 or 409 is settled by the item's state in the work list: a lost
            response to our own earlier acknowledgement leaves it `starting`.
        """
        try:
            async with self._call("ack") as (client, environment_id):
                await client.beta.environments.work.ack(work_id, environment_id=environment_id)
        except Failure as failure:
            if failure.status not in (404, 409):
                raise
            return await self.state(work_id) == "starting"
        return True

    async def items(self) -> WorkList:
        """The environment's work list, all pages of it."""
        asked_at = datetime.now(UTC)
        async with self._call("work list", _READ_SECONDS) as (client, environment_id):
            listed = client.beta.environments.work.list(environment_id, limit=_PAGE)
            return WorkList([_work_item(item) async for item in listed], asked_at)

    async def item(self, work_id: str) -> WorkItem | None:
        """The item in the environment's work list; None when it is not there."""
        async with self._call("work list", _READ_SECONDS) as (client, environment_id):
            async for item in client.beta.environments.work.list(environment_id, limit=_PAGE):
                if item.id == work_id:
                    return _work_item(item)
        return None

    async def workers_polling(self) -> int | None:
        """How many workers polled the queue in the last 30 s, this one included; None where it isn't said."""
        async with self._call("work stats") as (client, environment_id):
            stats = await client.beta.environments.work.stats(environment_id)
            return stats.workers_polling

    async def state(self, work_id: str) -> str | None:
        """The item's state in the environment's work list; None when it is not there."""
        item = await self.item(work_id)
        return item.state if item is not None else None

    async def stop(self, work_id: str) -> None:
        """Force-stop the item; one that is stopped or gone already is fine."""
        try:
            async with self._call("stop") as (client, environment_id):
                await client.beta.environments.work.stop(work_id, environment_id=environment_id, force=True)
        except Failure as failure:
            if failure.status not in (404, 409):
                raise

    async def stop_held(self, work_id: str) -> None:
        """Force-stop the item of a claim that was acknowledged, unless it is over.

        A session's items have one ID: what is queued under it is the next message's, and stays.
        """
        if await self.state(work_id) not in ("queued", "stopped", None):
            await self.stop(work_id)

    async def session(self, session_id: str) -> SessionView | None:
        """The session; None when there is none (any more)."""
        try:
            async with self._call("session") as (client, _):
                session = await client.beta.sessions.retrieve(session_id)
                return SessionView(
                    session_id=session.id,
                    environment_id=session.environment_id,
                    agent_id=getattr(session.agent, "id", None),
                    status=str(session.status),
                    archived=session.archived_at is not None,
                    has_skills=bool(getattr(session.agent, "skills", None)),
                )
        except Failure as failure:
            if failure.kind is not Kind.GONE:
                raise
            return None

    async def has_message(self, session_id: str) -> bool | None:
        """Whether anybody has said anything in the session (True when that cannot be found out).

        None when there is no such session (any more).
        """
        try:
            async with self._call("events") as (client, _):
                page = await client.beta.sessions.events.list(session_id, types=_USER_EVENTS, limit=100)
                # The filter is looked over: saying "nothing" wrongly would stop a message's work.
                said = any(event.type.startswith("user.") for event in page.data)
                return said or page.has_next_page()
        except Failure as failure:
            gone = failure.kind is Kind.GONE and await self._is_gone(session_id)
            return None if gone else True

    async def _is_gone(self, session_id: str) -> bool:
        try:
            return await self.session(session_id) is None
        except Failure:
            return False

    async def turn(self, session_id: str) -> Turn | None:
        """How the session's newest turn stands, by its newest events; None when there is no session."""
        try:
            async with self._call("events") as (client, _):
                page = await client.beta.sessions.events.list(session_id, order="desc", limit=_NEWEST_PAGE)
                if is_oldest_first(page.data):
                    # The order was not heeded: taken for the newest, old events would call a session stuck.
                    return read_turn(reversed([event async for event in page]))
                reader, seen = TurnReader(), 0
                async for event in page:
                    seen += 1
                    if (turn := reader.read(event)) is not None or seen >= NEWEST_EVENTS:
                        return turn or reader.end()
                return reader.end()
        except Failure as failure:
            if failure.kind is not Kind.GONE:
                raise
            return None

    async def download_skills(self, session_id: str, workdir: Path) -> None:
        """Unpack the skills of the session's agent into `workdir`/skills/<name>/.

        Only the environment key may read skills, so a worker with a session token can't do this itself. A
        skill that can't be had is logged by the SDK and left out.
        """
        async with self._call("skills", _READ_SECONDS) as (client, _):
            session = await client.beta.sessions.retrieve(session_id)
            await download_session_skills(client, workdir=workdir, session=session)
