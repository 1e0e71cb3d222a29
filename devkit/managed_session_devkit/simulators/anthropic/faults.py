"""Faults that a test injects. A rule matches calls of an operation, and says what goes wrong."""

from __future__ import annotations

import fnmatch
import random
from typing import Literal

from pydantic import Field, model_validator

from managed_session_devkit.simulators.anthropic.identifiers import new_id
from managed_session_devkit.simulators.common.faults import FaultAction, FaultList
from managed_session_devkit.simulators.common.settings import StrictModel

ActionName = Literal[
    "respond", "drop_before", "drop_after_commit", "hang", "sever", "drop", "duplicate", "delay"
]


class Action(FaultAction):
    """What goes wrong.

    - ``{"status": 503, "body": …, "headers": {…}, "after_commit": false}``: give this answer, before or after
      the effect, and after ``seconds``. Without a body it is the API error of that status
    - ``{"action": "drop_before"}`` / ``{"action": "drop_after_commit"}``: cut the connection before or after
      the effect
    - ``{"action": "hang", "seconds": n, "after_commit": false}``: wait, then continue
    - ``{"action": "sever", "after_events": n}``: cut an event stream after n events (`events.stream` only)
    - ``{"action": "drop"}``, ``{"action": "duplicate", "copies": n}``, ``{"action": "delay", "seconds": n}``:
      lose, repeat or delay a webhook (`webhook.deliver` only)
    """

    action: ActionName = "respond"
    status: int | None = Field(default=None, ge=100, le=599)
    after_events: int = Field(default=0, ge=0)
    copies: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _respond_needs_status(self) -> Action:
        if self.action == "respond" and self.status is None:
            raise ValueError("an action needs a status, or one of the named actions")
        return self


class Fault(StrictModel):
    """A rule.

    Attributes:
        operation: operation name or shell pattern (`work.*`).
        match: fields of the call that must be equal (`session_id`, `work_id`, `environment_id`, `credential`,
            `worker_id`, `helper`; for webhooks `type`, `object_id`, `endpoint_id`).
        times: how often it applies. null: always.
        skip: how many matching calls it lets pass first.
        probability: the chance that it applies to a matching call.
    """

    id: str = Field(default_factory=lambda: new_id("fault"))
    operation: str
    match: dict[str, str] = Field(default={})
    times: int | None = Field(default=1, ge=0)
    skip: int = Field(default=0, ge=0)
    probability: float = Field(default=1, ge=0, le=1)
    action: Action
    applied: int = 0

    def applies(self, operation: str, fields: dict[str, str]) -> bool:
        """Return whether the rule applies to this call, and count the call."""
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


class FaultPlan(FaultList[Fault]):
    """All rules. The first that applies to a call is used."""

    def next(self, operation: str, fields: dict[str, str]) -> Action | None:
        """Return the action for this call, if there is one."""
        fault = self.first(operation, fields)
        return None if fault is None else fault.action
