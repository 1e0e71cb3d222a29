"""Faults that a test injects: which calls they affect, and how."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from managed_session_devkit.simulators.common.faults import FaultAction, FaultList
from managed_session_devkit.simulators.common.settings import StrictModel

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


class Action(FaultAction):
    """What goes wrong: either a named action, or an answer with a status.

    `status` replaces the operation; with `after_commit` the operation happens first. `recorded` is for
    creates: the record of the idempotency key then keeps that answer. `seconds` delays an answer with a
    status. It is also how long a hang lasts (before or after the operation, which is then answered normally),
    and how long an operation continues without its client (`drop_while_in_progress`). Clearing the faults
    ends hangs and delays. `page_missing` empties a page of a list and keeps its token; `page_token_lost` ends
    the list there. `after_events` is for streams.
    """

    action: NamedAction | None = None
    status: int | None = Field(default=None, ge=200, le=599)
    recorded: bool = False
    after_events: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _one_kind(self) -> "Action":
        if (self.action is None) == (self.status is None):
            raise ValueError("a fault needs either a named `action` or a `status`")
        return self

    @property
    def name(self) -> str:
        """The name in the ledger."""
        return self.action or f"status {self.status}{' after commit' if self.after_commit else ''}"


class FaultRequest(StrictModel):
    """Requests a fault for `times` matching calls of `operation`, after the first `skip` of them."""

    operation: str
    match: dict[str, Any] = Field(default={})
    times: int = Field(default=1, ge=1)
    skip: int = Field(default=0, ge=0)
    action: Action


@dataclass
class Fault:
    """A fault that was added."""

    id: int
    request: FaultRequest
    seen: int = 0
    hits: int = 0

    @property
    def action(self) -> Action:
        """What happens to the calls that it affects."""
        return self.request.action

    def applies(self, operation: str, context: dict[str, Any]) -> bool:
        """Return whether the fault affects this call, and count the call."""
        wanted = self.request
        if wanted.operation not in (operation, "*") or self.hits >= wanted.times:
            return False
        if not matches(wanted.match, context):
            return False
        self.seen += 1
        if self.seen <= wanted.skip:
            return False
        self.hits += 1
        return True

    def as_json(self) -> dict[str, Any]:
        """Return it as the control surface shows it."""
        return {"id": self.id, **self.request.model_dump(), "hits": self.hits}


def matches(wanted: object, present: object) -> bool:
    """Return whether `present` has all of `wanted`: by key, {"$contains": text}, or equality."""
    if isinstance(wanted, dict):
        if set(wanted) == {"$contains"}:
            return str(wanted["$contains"]) in str(present)
        return isinstance(present, dict) and all(
            matches(value, present.get(key)) for key, value in wanted.items()
        )
    return wanted == present


class Faults(FaultList[Fault]):
    """All faults. The first that affects a call is used."""

    def __init__(self) -> None:
        super().__init__()
        self._ids = itertools.count(1)

    def request(self, request: FaultRequest) -> Fault:
        """Add a fault."""
        return self.add(Fault(next(self._ids), request))

    def take(self, operation: str, context: dict[str, Any]) -> Action | None:
        """Return the action for this call, if a fault affects it."""
        fault = self.first(operation, context)
        return None if fault is None else fault.action
