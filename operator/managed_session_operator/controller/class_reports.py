"""Writes what the classes report: their conditions, and how much their sessions use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from managed_session_api.conditions import Reason
from managed_session_api.session_class import ManagedSessionClass

from managed_session_operator.capacity.class_shares import shares_of, why_guarantee_reduced
from managed_session_operator.domain.class_budget import ClassUsage
from managed_session_operator.domain.class_choice import overlapping
from managed_session_operator.domain.class_overlap import outranked_by
from managed_session_operator.domain.class_report import (
    class_status,
    invalid_status,
    only_counts,
    ready_condition,
)
from managed_session_operator.domain.errors import (
    ConflictError,
    NotLeadingError,
    OperationError,
    ResourceGoneError,
)
from managed_session_operator.domain.ports import Body
from managed_session_operator.steps.context import Context

logger = logging.getLogger(__name__)

_EVERY_SECONDS = 2.0
_OUTRANKED = 64
"""Maximum number of classes that `status.outrankedBy` names, as in the CRD."""
_COUNTS_SECONDS = 10.0
"""Least time between two writes to a class that change nothing but numbers."""


class ClassStore(Protocol):
    """The ManagedSessionClass resources."""

    async def list(self) -> list[Body]:
        """Return all classes."""
        ...

    async def patch_status(self, name: str, resource_version: str, status: Body) -> Body:
        """Merge `status` into the class's status, if the class has not changed since it was read."""
        ...


class ClassReports:
    """Keeps the status of each class up to date while this process leads.

    Args:
        context: the operator's context.
        store: the API server.
        on_budget_change: called with the name of a class whose budget of today is no longer used up.
    """

    def __init__(self, context: Context, store: ClassStore, on_budget_change: Callable[[str], None]) -> None:
        self._context = context
        self._store = store
        self._on_budget_change = on_budget_change
        self._written_at: dict[str, float] = {}
        self._spent: set[str] = set()
        self._compared: list[tuple[str, str, int]] = []
        self._outranked: dict[str, list[str]] = {}

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            if len(self._context.classes.cache):
                try:
                    await self.report()
                except Exception:
                    logger.exception("classes not reported")
            await asyncio.sleep(_EVERY_SECONDS)

    async def report(self) -> None:
        """Write the status of each class that has changed."""
        context, board = self._context, self._context.classes
        context.count_classes()
        classes = board.cache.all()
        ties, shares, outranked = self._ties(), shares_of(classes), self._compare(classes)
        for each in classes:
            name = each.metadata.name
            spent = board.is_spent(each)
            self._note_budget(name, spent=spent)
            reduced = why_guarantee_reduced(name, shares, context.capacity.limit)
            ready = ready_condition(each, ties.get(name, ()), spent=spent, reduced=reduced)
            usage = board.usage.get(name, ClassUsage())
            activity = board.activities.get(name)
            patch = class_status(each, outranked[name], usage, activity, ready, context.now())
            if patch and self._is_due(name, patch):
                await self._write(name, each.metadata.resource_version, patch)
        for name, body in board.cache.unreadable().items():
            if patch := invalid_status(body, body["unreadable"], context.now()):
                await self._write(name, body["metadata"]["resourceVersion"], patch)

    def _compare(self, classes: list[ManagedSessionClass]) -> dict[str, list[str]]:
        """Return which classes may be chosen instead of each, compared anew once one has changed."""
        known = [each.metadata for each in classes]
        compared = sorted((each.name, each.uid, each.generation) for each in known)
        if compared != self._compared:
            self._outranked = {
                each.metadata.name: outranked_by(each, classes)[:_OUTRANKED] for each in classes
            }
            self._compared = compared
        return self._outranked

    def _note_budget(self, name: str, *, spent: bool) -> None:
        if spent:
            self._spent.add(name)
        elif name in self._spent:
            self._spent.discard(name)
            self._on_budget_change(name)

    def _is_due(self, name: str, patch: dict[str, Any]) -> bool:
        passed = self._context.clock.monotonic() - self._written_at.get(name, float("-inf"))
        return not only_counts(patch) or passed >= _COUNTS_SECONDS

    def _ties(self) -> dict[str, set[str]]:
        """Return which classes tie with which: by their selectors, or because a session waits for it."""
        context = self._context
        classes: list[ManagedSessionClass] = context.classes.cache.all()
        ties = overlapping(classes)
        cache = context.records.cache
        held = [each.name for each in cache.in_motion() if each.ready_reason == Reason.AMBIGUOUS_CLASS]
        for resource in (resource for name in held if (resource := cache.get(name)) is not None):
            tied = context.choice(resource).tied
            for name in tied:
                ties.setdefault(name, set()).update(other for other in tied if other != name)
        return ties

    async def _write(self, name: str, version: str, patch: dict[str, Any]) -> None:
        try:
            body = await self._store.patch_status(name, version, patch)
        except (ConflictError, ResourceGoneError, NotLeadingError):
            return
        except OperationError as error:
            logger.warning("class status not written", extra={"class": name, "cause": str(error)})
            return
        self._written_at[name] = self._context.clock.monotonic()
        self._context.classes.cache.observe(body)
