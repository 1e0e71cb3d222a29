"""Has the sessions reconciled that a changed class concerns, a few at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator

from managed_session_api.conditions import Reason

from managed_session_operator.domain.resource_summary import ResourceSummary

logger = logging.getLogger(__name__)

_AT_ONCE = 10
_EVERY_SECONDS = 0.2
_HELD_BACK = frozenset(
    {Reason.AMBIGUOUS_CLASS, Reason.BUDGET_REACHED, Reason.SUSPENDED, Reason.TURN_TOO_LONG}
)
"""Reasons of sessions that a change of any class may set free."""


def concerned(resources: Iterable[ResourceSummary], name: str) -> Iterator[tuple[bool, str]]:
    """Yield the sessions that a change of the class concerns: (whether it can wait, the resource's name)."""
    for resource in resources:
        held = resource.ready_reason in _HELD_BACK
        if held or resource.class_name == name:
            yield not (held or resource.claim_active), resource.name


class ClassChanges:
    """Spreads the reconciliations that changed classes cause: at most 50 per second, urgent ones first.

    Args:
        resources: returns all sessions.
        enqueue: called with the name of each resource to reconcile.
    """

    def __init__(
        self, resources: Callable[[], Iterable[ResourceSummary]], enqueue: Callable[[str], None]
    ) -> None:
        self._resources = resources
        self._enqueue = enqueue
        self._pending: dict[str, None] = {}
        self._wake = asyncio.Event()

    def changed(self, name: str) -> None:
        """Note that the class called `name` is new, changed or gone."""
        found = sorted(concerned(self._resources(), name))
        logger.info("class changed", extra={"class": name, "sessions": len(found)})
        urgent = [each for can_wait, each in found if not can_wait]
        later = [each for can_wait, each in found if can_wait]
        # Those that are urgent now overtake those that have been waiting.
        self._pending = dict.fromkeys([*urgent, *self._pending, *later])
        self._wake.set()

    async def run(self) -> None:
        """Have the sessions reconciled, until cancelled."""
        while True:
            await self._wake.wait()
            for name in list(self._pending)[:_AT_ONCE]:
                del self._pending[name]
                self._enqueue(name)
            if not self._pending:
                self._wake.clear()
            await asyncio.sleep(_EVERY_SECONDS)

    def clear(self) -> None:
        """Forget all pending sessions."""
        self._pending.clear()
        self._wake.clear()
