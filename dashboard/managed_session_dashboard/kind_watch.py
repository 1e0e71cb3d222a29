"""Follows all objects of one kind by list and watch, for all viewers together."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
from kubernetes.aio.config import ConfigException
from managed_session_runtime.kubernetes_client import ApiServerSession

logger = logging.getLogger(__name__)

Body = dict[str, Any]
"""A resource as JSON."""

_PAGE = 500
_WATCH_SECONDS = 300
_SILENT_SECONDS = 120.0
"""The API server sends a bookmark about every minute, so a longer silence means a lost connection."""
_FIRST_DELAY_SECONDS = 0.5
_MAX_DELAY_SECONDS = 30.0
_MAX_MESSAGE = 200


class ApiServerProblemError(Exception):
    """The API server refused a call."""


class _ExpiredError(Exception):
    """The API server no longer knows the version (410): the list has to be read again."""


class Sink(Protocol):
    """Receives the objects of a kind."""

    def begin(self) -> None:
        """A new list begins."""

    def put(self, body: Body) -> None:
        """Take an object that is new or has changed."""

    def remove(self, body: Body) -> None:
        """Forget an object that was deleted."""

    def end(self) -> None:
        """The list is complete: forget all objects that were not in it."""


@dataclass(frozen=True)
class Kind:
    """What is watched: the path of its API group and version, and its plural name."""

    group_path: str
    plural: str


class KindWatch:
    """Keeps one watch on one kind in one namespace. After a failure, it goes on where it was.

    Args:
        api: session for the API server.
        namespace: namespace of the objects.
        kind: what to watch.
        sink: receives the objects.
        timeout_seconds: timeout of a page of the list, and of the start of a watch.
        failed: called after each failure.
        changed: called when the state of the watch has changed.
        user_agent: name in the API server's audit log.
    """

    def __init__(
        self,
        api: ApiServerSession,
        namespace: str,
        kind: Kind,
        sink: Sink,
        *,
        timeout_seconds: float,
        observer: WatchObserver,
        user_agent: str,
    ) -> None:
        self._api = api
        self._kind = kind
        self._url = f"{api.url}{kind.group_path}/namespaces/{namespace}/{kind.plural}"
        self._sink = sink
        self._timeout_seconds = timeout_seconds
        self._observer = observer
        self._headers = {"Accept": "application/json", "User-Agent": user_agent}
        self._version: str | None = None
        self.synced = False
        """Whether the list was read once."""
        self.problem: str | None = None
        """Why nothing new arrives; None while the watch runs."""
        self.problem_since: float | None = None
        """Time of the first failure in a row, seconds since the epoch."""

    @property
    def plural(self) -> str:
        """The kind's plural name."""
        return self._kind.plural

    async def run(self) -> None:
        """Follow the kind until cancelled."""
        delay = _FIRST_DELAY_SECONDS
        while True:
            began = time.monotonic()
            try:
                if self._version is None:
                    self._version = await self._list()
                await self._watch(self._version)
                delay = _FIRST_DELAY_SECONDS
                continue
            except _ExpiredError:
                self._version = None
                logger.info("reading the list again", extra={"kind": self.plural})
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, ConfigException) as error:
                self._fail(f"the API server cannot be reached: {type(error).__name__}")
            except ApiServerProblemError as error:
                self._fail(str(error))
            if time.monotonic() - began > _MAX_DELAY_SECONDS:
                delay = _FIRST_DELAY_SECONDS
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, _MAX_DELAY_SECONDS)

    async def _list(self) -> str:
        """Read the whole list page by page, and return its version."""
        self._sink.begin()
        query = {"limit": str(_PAGE)}
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        while True:
            async with self._api.session.get(
                self._url, params=query, headers=self._headers, timeout=timeout
            ) as answer:
                await self._check(answer)
                page = json.loads(await answer.read())
            for item in page["items"]:
                self._sink.put(item)
            metadata = page["metadata"]
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        self._sink.end()
        self.synced = True
        self._recover()
        return str(metadata["resourceVersion"])

    async def _watch(self, version: str) -> None:
        """Take changes until the API server ends the watch, which is normal."""
        seconds = round(_WATCH_SECONDS * random.uniform(1.0, 2.0))
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        timeout = aiohttp.ClientTimeout(
            total=seconds + _SILENT_SECONDS, sock_connect=self._timeout_seconds, sock_read=_SILENT_SECONDS
        )
        async with self._api.session.get(
            self._url, params=query, headers=self._headers, timeout=timeout
        ) as answer:
            await self._check(answer)
            self._recover()
            async for change in _lines(answer):
                self._take(change)

    def _take(self, change: Mapping[str, Any]) -> None:
        kind, body = change["type"], change["object"]
        if kind == "ERROR":
            if body.get("code") == 410:
                raise _ExpiredError
            raise ApiServerProblemError(f"the watch ended: {str(body.get('message'))[:_MAX_MESSAGE]}")
        if kind in ("ADDED", "MODIFIED"):
            self._sink.put(body)
        elif kind == "DELETED":
            self._sink.remove(body)
        self._version = body["metadata"]["resourceVersion"]

    async def _check(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status == 410:
            raise _ExpiredError
        if answer.status != 200:
            await answer.read()
            raise ApiServerProblemError(f"the API server answered {answer.status} for {self.plural}")

    def _fail(self, problem: str) -> None:
        if problem != self.problem:
            logger.warning("not up to date: %s", problem, extra={"kind": self.plural})
        if self.problem_since is None:
            self.problem_since = time.time()
        self.problem = problem
        self._observer.watch_failed(self.plural)

    def _recover(self) -> None:
        if self.problem is not None:
            logger.info("up to date again", extra={"kind": self.plural})
            self.problem = self.problem_since = None
        self._observer.watch_runs(self.plural)


class WatchObserver(Protocol):
    """Is told about the state of watches."""

    def watch_failed(self, plural: str) -> None:
        """A list or a watch has failed and will be begun again."""

    def watch_runs(self, plural: str) -> None:
        """A list was read, or a watch has begun."""


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[Mapping[str, Any]]:
    async for line in answer.content:
        yield json.loads(line)
