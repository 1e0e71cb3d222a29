"""What may be asked of preparations in the in-memory world."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from .world import World

HOOKS = {"afterResume": {"command": "true"}}
RARELY = st.sampled_from([False, False, False, True])


class PreparationRules(RuleBasedStateMachine):
    """The rules about preparations, for a machine that has a world."""

    world: World

    @precondition(lambda self: not self.world.released and not self.world.deleted)
    @rule(wanted=st.booleans(), fails=RARELY)
    def preparation_changes(self, wanted: bool, fails: bool) -> None:
        """Somebody changes what the policy asks for, and whether it can succeed."""
        self.world.preparations_fail = fails
        self.world.patch({"spec": {"sandbox": {"hooks": HOOKS if wanted else None}}})
