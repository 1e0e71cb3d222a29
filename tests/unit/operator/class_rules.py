"""What may happen to classes in the in-memory world, and what must then hold for the session's sandbox."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from managed_session_api.conditions import ConditionType
from managed_session_api.times import claim_name

from .process import Process
from .world import Sandbox, World

EFFECTS = st.integers(0, 12)
"""How many effects pass. A turn has about ten, from the claim to the heartbeat."""


class ClassRules(RuleBasedStateMachine):
    """The rules about classes, for a machine that has a world and an operator."""

    world: World
    operator: Process

    def take_over(self) -> None:
        """Another process becomes the leader."""
        raise NotImplementedError

    @rule(
        name=st.sampled_from(["gold", "silver"]),
        template=st.sampled_from(["gold:1", "gold:2"]),
        denied=st.booleans(),
        precedence=st.sampled_from([0, 0, 1]),
        locked=st.booleans(),
        limit=st.sampled_from([None, None, None, 600]),
    )
    def class_changes(
        self, name: str, template: str, denied: bool, precedence: int, locked: bool, limit: int | None
    ) -> None:
        """Somebody makes a class or changes it. Two classes of one precedence are a tie."""
        network = {"network": {"deny": ["0.0.0.0/0"]}} if denied else {}
        spec: dict[str, Any] = {
            "precedence": precedence,
            "session": {"sandbox": {"template": template, **network}, "worker": {"maxIdleSeconds": 20}},
            "locked": ["template"] if locked else [],
            "limits": {"maxTurnSeconds": limit} if limit is not None else {},
        }
        selector = {"agentNames": ["coder"]} if template == "gold:1" else None
        self.world.set_class(name, {**spec, "selector": selector} if selector else spec)

    @rule(name=st.sampled_from(["gold", "silver"]))
    def class_is_deleted(self, name: str) -> None:
        self.world.classes.pop(name, None)

    @precondition(lambda self: not self.world.released)
    @rule(
        effects=EFFECTS,
        happens=st.sampled_from(["changed", "deleted", "ambiguous"]),
        cut=st.booleans(),
    )
    def class_changes_under_a_step(self, effects: int, happens: str, cut: bool) -> None:
        """A class changes, goes or gets a rival between two effects, whoever leads afterwards."""
        if not self.operator.reaches(effects):
            return
        match happens:
            case "changed":
                self.class_changes("gold", "gold:2", denied=True, precedence=0, locked=False, limit=None)
            case "deleted":
                self.world.classes.clear()
            case "ambiguous":
                for name in ("gold", "silver"):
                    self.class_changes(name, "gold:1", denied=False, precedence=0, locked=True, limit=None)
        if cut:
            self.take_over()
        else:
            self.operator.hear_of_classes()
            self.operator.goes_on()

    def class_applies(self, left: list[Sandbox], since: datetime) -> None:
        """Check that the sandbox is as the status says, and that the status says what is not so yet.

        `since` is when the classes changed last.
        """
        status = self.world.resource.status
        recorded = next((each for each in left if each.name == status.sandbox.id), None)
        created, effective = status.sandbox.created_with, status.effective
        if recorded is None or effective is None or created is None:
            return
        if "network" in created and effective.network is not None:
            assert recorded.deny == tuple(effective.network.deny), "other rules than the status says"
        from_template = status.sandbox.from_snapshot is None
        if from_template and "template" in created and effective.origins is not None:
            assert recorded.template == effective.template, "another template than the status says"
        claim, served = status.work.claim, status.work.acknowledged_at is not None
        serving = self.operator.context.serving(self.world.resource)
        if serving is None or claim is None or not served or claim < claim_name(since):
            # A claim from before the last change may have had another class, even if it was served later.
            return
        assert recorded.deny == ("0.0.0.0/0",), "a worker ran under other rules than its class's"
        told = status.condition(ConditionType.POLICY_APPLIED)
        if from_template and recorded.template != "gold:1":
            assert told is not None, "an older template, and nobody says so"
            assert "template" in told.message
