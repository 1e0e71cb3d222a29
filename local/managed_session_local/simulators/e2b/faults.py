"""Faults that a test asks for: which calls they hit and what happens to those."""

import asyncio
import itertools
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

NamedAction = Literal[
    "drop_before",
    "drop_after_commit",
    "drop_while_in_progress",
    "hang",
    "hang_after_commit",
    "page_missing",
    "page_token_lost",
    "pause_dropped",
    "pause_rolled_back",
    "idempotency_outcome_unknown",
    "silent_stream",
    "cut_stream",
]


class Action(BaseModel):
    """Either a named action or an answer with a status.

    `status` without `after_commit` replaces the operation; with it, the operation happens first. `recorded`
    is for a create: the idempotency key's record holds that answer from then on. `seconds` is for the hangs
    (before or after the operation, answered normally in the end) and `drop_while_in_progress` (the operation
    goes on that long without its client), and delays a status answer; clearing the faults ends the wait of
    hangs and delays. `page_missing` empties a page
    of a listing and keeps its token, `page_token_lost` ends the listing there. `after_events` is for streams.
    """

    model_config = ConfigDict(extra="forbid")

    action: NamedAction | None = None
    status: int | None = Field(default=None, ge=200, le=599)
    body: Any = None
    headers: dict[str, str] = {}
    after_commit: bool = False
    recorded: bool = False
    seconds: float = Field(default=0, ge=0)
    after_events: int = Field(default=1, ge=0)
    _cleared: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    async def wait(self) -> None:
        """Wait for `seconds`, or until the fault is cleared."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._cleared.wait(), self.seconds)

    def clear(self) -> None:
        """End what waits."""
        self._cleared.set()

    @model_validator(mode="after")
    def _one_kind(self) -> "Action":
        if (self.action is None) == (self.status is None):
            raise ValueError("an action is either a named `action` or a `status`")
        return self

    @property
    def name(self) -> str:
        """For the ledger."""
        return self.action or f"status {self.status}{' after commit' if self.after_commit else ''}"


class FaultRequest(BaseModel):
    """One fault: hits the next `times` calls of `operation` that match, after letting `skip` of them pass."""

    model_config = ConfigDict(extra="forbid")

    operation: str
    match: dict[str, Any] = {}
    times: int = Field(default=1, ge=1)
    skip: int = Field(default=0, ge=0)
    action: Action


@dataclass
class Fault:
    """A fault in force."""

    id: int
    request: FaultRequest
    seen: int = 0
    hits: int = 0

    def as_json(self) -> dict[str, Any]:
        """For the control surface."""
        return {"id": self.id, **self.request.model_dump(), "hits": self.hits}


def matches(wanted: object, present: object) -> bool:
    """Whether `present` has all of `wanted`: objects by key, {"$contains": text} in text, else equality."""
    if isinstance(wanted, dict):
        if set(wanted) == {"$contains"}:
            return str(wanted["$contains"]) in str(present)
        return isinstance(present, dict) and all(
            matches(value, present.get(key)) for key, value in wanted.items()
        )
    return wanted == present


@dataclass
class Faults:
    """All faults, oldest first; an exhausted one stays visible until cleared."""

    faults: list[Fault] = field(default_factory=list)
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def add(self, request: FaultRequest) -> Fault:
        """Put a fault in force."""
        fault = Fault(next(self._ids), request)
        self.faults.append(fault)
        return fault

    def take(self, operation: str, context: dict[str, Any]) -> Action | None:
        """The action for this call, if a fault hits it."""
        for fault in self.faults:
            wanted = fault.request
            if wanted.operation not in (operation, "*") or fault.hits >= wanted.times:
                continue
            if not matches(wanted.match, context):
                continue
            fault.seen += 1
            if fault.seen > wanted.skip:
                fault.hits += 1
                return wanted.action
        return None

    def clear(self) -> None:
        """End all faults, and what waits because of one."""
        for fault in self.faults:
            fault.request.action.clear()
        self.faults.clear()
