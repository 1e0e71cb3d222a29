"""Faults that a test injects: a rule matches an operation and its fields, and says what goes wrong."""

from __future__ import annotations

import asyncio
import fnmatch
import random
from contextlib import suppress
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from .identifiers import new_id

ActionName = Literal[
    "respond", "drop_before", "drop_after_commit", "hang", "sever", "drop", "duplicate", "delay"
]


class Action(BaseModel):
    """What goes wrong.

    - ``{"status": 503, "body": …, "headers": {…}, "after_commit": false}``: this answer, before or after the
      effect, and after ``seconds``; a missing body becomes an API error of that status
    - ``{"action": "drop_before"}`` / ``{"action": "drop_after_commit"}``: cut the connection
    - ``{"action": "hang", "seconds": n, "after_commit": false}``: wait, then go on
    - ``{"action": "sever", "after_events": n}``: cut an event stream after n events (`events.stream` only)
    - ``{"action": "drop"}``, ``{"action": "duplicate", "copies": n}``, ``{"action": "delay", "seconds": n}``:
      lose, repeat or delay a webhook (`webhook.deliver` only)

    Clearing the faults ends the wait of a ``hang`` and of a delayed answer.
    """

    model_config = ConfigDict(extra="forbid")

    action: ActionName = "respond"
    status: int | None = Field(default=None, ge=100, le=599)
    body: Any = None
    headers: dict[str, str] = {}
    after_commit: bool = False
    seconds: float = Field(default=0, ge=0)
    after_events: int = Field(default=0, ge=0)
    copies: int = Field(default=2, ge=1)
    _cleared: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    async def wait(self) -> None:
        """Wait for ``seconds``, or until the fault is cleared."""
        if self.seconds:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._cleared.wait(), self.seconds)

    def clear(self) -> None:
        """End what waits."""
        self._cleared.set()

    @model_validator(mode="after")
    def _respond_needs_status(self) -> Action:
        if self.action == "respond" and self.status is None:
            raise ValueError("an action has a status, or one of the named actions")
        return self


class Fault(BaseModel):
    """A rule.

    Attributes:
        operation: operation name or shell pattern (`work.*`).
        match: fields of the call that must be equal (`session_id`, `work_id`, `environment_id`, `credential`,
            `worker_id`, `helper`; for webhooks `type`, `object_id`, `endpoint_id`).
        times: how often it applies; null: always.
        skip: how many matching calls pass first.
        probability: of applying to a matching call.
    """

    model_config = ConfigDict(extra="forbid")

    id: str = Field(default_factory=lambda: new_id("fault"))
    operation: str
    match: dict[str, str] = {}
    times: int | None = Field(default=1, ge=0)
    skip: int = Field(default=0, ge=0)
    probability: float = Field(default=1, ge=0, le=1)
    action: Action
    applied: int = 0

    def applies(self, operation: str, fields: dict[str, str]) -> bool:
        """Tell whether the rule applies to this call, and count it."""
        if self.times is not None and self.applied >= self.times:
            return False
        if not fnmatch.fnmatchcase(operation, self.operation):
            return False
        if any(fields.get(name) != value for name, value in self.match.items()):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.probability < 1 and random.random() >= self.probability:
            return False
        self.applied += 1
        return True


class FaultPlan:
    """All rules; the first that applies to a call is taken."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Add a rule behind the others."""
        self.faults.append(fault)
        return fault

    def next(self, operation: str, fields: dict[str, str]) -> Action | None:
        """Return the action for this call, or None."""
        return next((fault.action for fault in self.faults if fault.applies(operation, fields)), None)

    def clear(self) -> None:
        """End all faults, and what waits because of one."""
        for fault in self.faults:
            fault.action.clear()
        self.faults.clear()
