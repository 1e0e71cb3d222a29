"""Faults that a test injects: the part that both simulators share."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from pydantic import Field, PrivateAttr

from managed_session_devkit.simulators.common.settings import StrictModel


class FaultAction(StrictModel):
    """What goes wrong. Each simulator adds its own named actions.

    Attributes:
        body: body of an answer with a status.
        headers: headers of such an answer.
        after_commit: whether the operation takes effect before its answer fails.
        seconds: how long a hang or a delay lasts. Clearing the faults ends it.
    """

    body: Any = None
    headers: dict[str, str] = Field(default={})
    after_commit: bool = False
    seconds: float = Field(default=0, ge=0)
    _cleared: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    async def wait(self) -> None:
        """Wait for `seconds`, or until faults are cleared."""
        if self.seconds:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._cleared.wait(), self.seconds)

    def clear(self) -> None:
        """End all waits."""
        self._cleared.set()


class FaultRule(Protocol):
    """Decides which calls a fault applies to."""

    @property
    def action(self) -> FaultAction:
        """What happens to those calls."""

    def applies(self, operation: str, context: Any, /) -> bool:
        """Return whether the fault applies to this call, and count the call."""


RuleT = TypeVar("RuleT", bound=FaultRule)


class FaultList(Generic[RuleT]):
    """All faults, oldest first. A used-up fault stays in the list until faults are cleared."""

    def __init__(self) -> None:
        self.faults: list[RuleT] = []

    def add(self, fault: RuleT) -> RuleT:
        """Add a fault at the end."""
        self.faults.append(fault)
        return fault

    def first(self, operation: str, context: Any) -> RuleT | None:
        """Return the first fault that applies to this call, or None."""
        return next((fault for fault in self.faults if fault.applies(operation, context)), None)

    def clear(self) -> None:
        """Remove all faults, and end the waits that they cause."""
        for fault in self.faults:
            fault.action.clear()
        self.faults.clear()
