"""What may be asked of snapshots in the in-memory world, and what must have come of it in the end."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from .world import FOREIGN, World

RARELY = st.sampled_from([False, False, False, True])


class SnapshotRules(RuleBasedStateMachine):
    """The rules about snapshots, for a machine that has a world."""

    world: World
    asked: int = 0

    @precondition(lambda self: not self.world.released and not self.world.deleted)
    @rule(after_each=st.booleans(), keep=st.integers(1, 2), retain=st.booleans(), foreign=st.booleans())
    def snapshots_are_configured(self, after_each: bool, keep: int, retain: bool, foreign: bool) -> None:
        """Somebody changes the policy."""
        lifecycle = {
            "snapshots": {"afterEachTurn": after_each, "keepLast": keep},
            "deletionPolicy": "Retain" if retain else "Delete",
        }
        sandbox = {"fromSnapshot": FOREIGN if foreign else None}
        self.world.patch({"spec": {"lifecycle": lifecycle, "sandbox": sandbox}})

    @precondition(lambda self: not self.world.released and not self.world.deleted)
    @rule()
    def snapshot_is_requested(self) -> None:
        """Somebody asks for a snapshot."""
        self.asked += 1
        self.world.patch({"spec": {"requests": {"snapshot": f"asked-{self.asked}"}}})

    @precondition(lambda self: not self.world.released and not self.world.deleted)
    @rule(which=st.integers(0, 3), missing=RARELY)
    def restore_is_requested(self, which: int, missing: bool) -> None:
        """Somebody asks for a restore, perhaps of a snapshot that does not exist."""
        known = [each["id"] for each in self.world.body["status"].get("snapshots", []) if "id" in each]
        if not (known or missing):
            return
        self.asked += 1
        snapshot = "missing" if missing else known[which % len(known)]
        wanted = {"id": f"restore-{self.asked}", "snapshotID": snapshot}
        self.world.patch({"spec": {"requests": {"restore": wanted}}})

    def snapshots_are_settled(self) -> None:
        """Check what is left when nothing more happens."""
        world = self.world
        spec, status = world.body["spec"], world.body["status"]
        if world.released:
            return
        sandbox = world.part("sandbox")
        assert "replaces" not in sandbox, "a restore that never ends"
        served = sandbox.get("id") and not (world.suspended or world.ended or world.deleted)
        if served:
            asked, got = spec.get("requests", {}), status.get("requests", {})
            assert asked.get("snapshot") == got.get("snapshot"), "a snapshot that was never taken"
            assert (asked.get("restore") or {}).get("id") == got.get("restore"), "a restore that never began"
