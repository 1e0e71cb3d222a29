"""Records in the audit who has reached into sandboxes, by the Events that the command line leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from managed_session_operator.domain.errors import ConflictError, OperationError, ResourceGoneError
from managed_session_operator.steps.audit_trail import AuditTrail

logger = logging.getLogger(__name__)


class AccessSource(Protocol):
    """Where the Events are."""

    async def list(self) -> Sequence[Mapping[str, Any]]:
        """Return the Events that there are, as fields of the audit."""
        ...


class AccessAudit:
    """Looks for new Events, and records each once.

    Another process records those that still exist once more, under the same `accessEvent`.

    Args:
        source: the API server.
        audit: gets the records.
        interval_seconds: time between two looks.
    """

    def __init__(self, source: AccessSource, audit: AuditTrail | None, interval_seconds: float) -> None:
        self._source = source
        self._audit = audit
        self._interval_seconds = interval_seconds
        self._recorded: set[str] = set()

    async def run(self) -> None:
        """Look now and then, until cancelled. Without an audit, do nothing."""
        while True:
            if self._audit is not None:
                await self.look(self._audit)
            await asyncio.sleep(self._interval_seconds)

    async def look(self, audit: AuditTrail) -> None:
        """Record the Events that are new."""
        try:
            found = await self._source.list()
        except (OperationError, ConflictError, ResourceGoneError) as error:
            logger.warning("accesses not read", extra={"cause": str(error)})
            return
        for each in found:
            if each["accessEvent"] not in self._recorded:
                audit.accessed(each)
        self._recorded = {each["accessEvent"] for each in found}
