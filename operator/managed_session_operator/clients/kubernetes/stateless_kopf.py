"""Parts of kopf that keep nothing between two events, for an operator that only watches.

By default kopf keeps a record of every object in memory, and copies each object to compare it with the state
that a change handler has seen last. There are no change handlers here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory


class NoMemories(ResourceMemories):
    """Forgets each object as soon as its event has been handled."""

    async def recall(self, raw_body: Any, **options: Any) -> ResourceMemory:
        """Return a new record."""
        return await super().recall(raw_body, **{**options, "ephemeral": True})


class NoDiffBase(kopf.DiffBaseStorage):
    """Knows no earlier state, and stores none."""

    def build(self, *, body: Any, extra_fields: Iterable[Any] | None = None) -> Any:  # noqa: ARG002
        """Return nothing to compare."""
        return {}

    def fetch(self, *, body: Any) -> None:
        """Return no earlier state."""

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Store nothing."""


class NoProgress(kopf.ProgressStorage):
    """Keeps no progress of handlers, of which there is none."""

    def fetch(self, *, key: Any, body: Any) -> None:
        """Return no progress."""

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None:
        """Store nothing."""

    def purge(self, *, key: Any, body: Any, patch: Any) -> None:
        """Remove nothing."""

    def touch(self, *, body: Any, patch: Any, value: str | None) -> None:
        """Touch nothing."""

    def clear(self, *, essence: Any) -> Any:
        """Return the state as it is."""
        return essence
