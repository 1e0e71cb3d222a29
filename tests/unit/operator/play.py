"""A session of the in-memory world that a test leads step by step, and its class."""

from __future__ import annotations

from typing import Any

from managed_session_api.conditions import ConditionType
from managed_session_api.resource import Status

from .test_decisions_in_a_world import Sessions
from .world import Sandbox


class Play(Sessions):
    """A session that a test leads step by step."""

    @property
    def status(self) -> Status:
        """The resource's status."""
        return self.world.resource.status

    @property
    def sandbox(self) -> Sandbox:
        """The session's one sandbox."""
        (found,) = [each for each in self.world.sandboxes if each.alive]
        return found

    def reason(self, type_: ConditionType = ConditionType.READY) -> str | None:
        """The reason of a condition; None if it is not set."""
        condition = self.status.condition(type_)
        return condition.reason if condition is not None else None

    @property
    def policy_reason(self) -> str | None:
        """The reason of PolicyApplied."""
        return self.reason(ConditionType.POLICY_APPLIED)

    def starts(self) -> None:
        """A message comes, and its worker starts."""
        self.message(announced=False)
        self.serve()

    def serve(self) -> None:
        """The queue offers the work, and its worker starts."""
        self.world.time_passes(121)
        self.poll()
        self.settle()
        self.world.beat()
        self.settle()

    def ends(self) -> None:
        """The turn ends, and the session is idle."""
        self.world.worker_ends("Idle")
        self.settle()

    def turn(self) -> int:
        """Play a whole turn. Return how many writes it cost."""
        before = self.world.version
        self.starts()
        self.ends()
        return self.world.version - before


def gold(play: Play, template: str = "gold:1", *deny: str, name: str = "gold", **spec: Any) -> None:
    """Make the class, or change it."""
    session = {"sandbox": {"template": template, "network": {"deny": list(deny)}}}
    play.world.set_class(name, {"session": session, **spec})
