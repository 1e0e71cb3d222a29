"""Keeps the cache of classes up to date, from the watch and from lists."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from managed_session_operator.controller.class_reports import ClassStore
from managed_session_operator.domain.class_cache import ClassCache
from managed_session_operator.domain.errors import OperationError
from managed_session_operator.domain.resource_cache import version_of

logger = logging.getLogger(__name__)

_LIST_SECONDS = 300.0
"""Time between two lists, which make up for lost watch events."""


class ClassFeed:
    """Fills the cache of classes, and tells which classes are new, changed or gone.

    Args:
        cache: the cache.
        store: the API server.
        on_change: called with the name of a class that is new, changed or gone.
        retry_seconds: delay after a list that failed.
    """

    def __init__(
        self, cache: ClassCache, store: ClassStore, on_change: Callable[[str], None], retry_seconds: float
    ) -> None:
        self._cache = cache
        self._store = store
        self._on_change = on_change
        self._retry_seconds = retry_seconds

    def observe(self, kind: str | None, body: dict[str, Any]) -> None:
        """Receive an event of the watch: its type (None for an object of the initial list) and the class."""
        name, uid = body["metadata"]["name"], body["metadata"].get("uid")
        gone = kind == "DELETED"
        if self._cache.remove(name, uid, version_of(body)) if gone else self._cache.observe(body):
            self._on_change(name)

    async def list(self) -> None:
        """Read all classes, and keep trying until the API server answers.

        A session must not be served without its class, so nothing is served before.
        """
        while True:
            known = self._cache.names()
            try:
                changed = self._cache.replace_all(await self._store.list(), known)
            except OperationError as error:
                logger.warning("classes not listed", extra={"cause": str(error)})
                await asyncio.sleep(self._retry_seconds)
            else:
                for name in changed:
                    self._on_change(name)
                return

    async def run(self) -> None:
        """Read all classes now and then, until cancelled."""
        while True:
            await asyncio.sleep(_LIST_SECONDS)
            await self.list()
