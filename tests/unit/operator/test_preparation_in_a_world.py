"""When a sandbox is prepared: the real steps in the in-memory world."""

from __future__ import annotations

import pytest
from managed_session_api.conditions import ConditionType
from managed_session_api.resource import SandboxState

from .examples import NAME
from .gate import Passage
from .play import Play
from .preparation_rules import HOOKS


def fails_to_prepare(play: Play, tries: int) -> None:
    """A message comes, and its sandbox cannot be prepared, so many times in a row."""
    play.world.preparations_fail = True
    play.world.patch({"spec": {"sandbox": {"hooks": HOOKS}}})
    play.message(announced=False)
    play.serve()
    for _ in range(tries - 1):
        play.world.time_passes(121)
        play.poll()
        play.settle()


def test_a_policy_that_asks_for_nothing_any_more_ends_the_preparations(play: Play) -> None:
    play.world.patch({"spec": {"sandbox": {"hooks": HOOKS}}})
    play.starts()
    play.world.patch({"spec": {"sandbox": {"hooks": None}}})
    play.settle()
    assert play.sandbox.worker is not None


def test_after_a_few_failures_the_sandbox_waits_paused_and_without_a_slot(play: Play) -> None:
    fails_to_prepare(play, tries=2)
    assert play.sandbox.running
    for _ in range(3):
        play.world.time_passes(121)
        play.poll()
        play.settle()
        assert not play.sandbox.running
        assert not play.operator.context.capacity.holds(NAME)
        assert play.status.sandbox.state is SandboxState.PAUSED
        assert play.reason() == "SetupFailed"
    assert play.world.item == "queued", "the work stays in the queue"
    play.world.preparations_fail = False
    play.serve()
    assert play.sandbox.worker is not None
    assert play.reason() == "Running"


def test_a_corrected_policy_is_tried_at_once(play: Play) -> None:
    fails_to_prepare(play, tries=4)
    play.world.preparations_fail = False
    play.world.patch({"spec": {"sandbox": {"hooks": {"afterResume": {"command": "false"}}}}})
    play.settle()
    play.world.beat()
    play.settle()
    assert play.reason() == "Running"


@pytest.mark.parametrize("effects", range(4))
def test_a_policy_corrected_before_the_pause_leaves_the_worker_alone_later(play: Play, effects: int) -> None:
    fails_to_prepare(play, tries=2)
    play.world.time_passes(121)
    play.poll()
    play.operator.link.gate.after(effects, Passage.REFUSED)
    play.operator.reconcile()
    play.operator.link.gate.open()
    play.world.patch({"spec": {"sandbox": {"hooks": None}}})
    play.serve()
    assert play.sandbox.worker is not None
    play.world.patch({"spec": {"sandbox": {"hooks": HOOKS}}})
    play.settle()
    assert play.sandbox.running


def test_another_leader_goes_on_with_the_paused_sandbox(play: Play) -> None:
    fails_to_prepare(play, tries=4)
    sandbox = play.sandbox
    play.take_over()
    play.settle()
    assert sandbox.running, "a new leader tries again"
    play.world.preparations_fail = False
    play.world.time_passes(121)
    play.serve()
    assert play.sandbox is sandbox
    assert play.reason() == "Running"


def test_an_announced_run_that_cannot_be_prepared_does_not_run_for_long(play: Play) -> None:
    play.world.preparations_fail = True
    play.world.patch({"spec": {"sandbox": {"hooks": HOOKS}}})
    play.message(announced=True)
    for _ in range(5):
        play.settle()
        play.world.time_passes(11)
    play.settle()
    assert not play.sandbox.running
    assert not play.operator.context.capacity.holds(NAME)


def test_a_leader_that_is_not_connected_runs_the_hook_before_it_kills_a_running_sandbox(play: Play) -> None:
    play.world.patch({"spec": {"sandbox": {"hooks": {"beforeKill": {"command": "true"}}}}})
    play.starts()
    play.take_over()
    play.world.delete()
    play.settle()
    assert play.world.prepared_for[-1] == "beforeKill"
    assert play.world.released


def test_a_deletion_wakes_no_paused_sandbox_for_its_hook(play: Play) -> None:
    play.world.patch({"spec": {"sandbox": {"hooks": {"beforeKill": {"command": "true"}}}}})
    play.starts()
    play.ends()
    play.take_over()
    play.world.delete()
    play.settle()
    assert "beforeKill" not in play.world.prepared_for
    assert play.world.released


def test_what_a_policy_has_added_is_undone_once_it_no_longer_asks_for_it(play: Play) -> None:
    bucket = {"type": "S3", "bucket": "data", "path": "/mnt/data"}
    play.world.patch({"spec": {"sandbox": {"buckets": [bucket]}}})
    play.starts()
    assert play.status.sandbox.equipped
    play.ends()
    play.world.patch({"spec": {"sandbox": {"buckets": None}}})
    play.starts()
    assert play.world.prepared_for[-1] == "undo"
    assert not play.status.sandbox.equipped
    play.ends()
    done = len(play.world.prepared_for)
    play.starts()
    assert len(play.world.prepared_for) == done, "there is nothing left to undo"


def test_outputs_are_copied_at_the_end_of_a_turn_and_a_failure_does_not_hold_up_the_pause(play: Play) -> None:
    bucket = {"type": "S3", "bucket": "data", "path": "/mnt/data"}
    outputs = {"bucketPath": "/mnt/data", "prefix": "runs"}
    play.world.patch({"spec": {"sandbox": {"buckets": [bucket], "outputs": outputs}}})
    play.turn()
    assert play.world.prepared_for[-1] == "outputs"
    assert play.reason(ConditionType.OUTPUTS_FAILED) is None
    play.world.preparations_fail = True
    play.turn()
    assert play.reason(ConditionType.OUTPUTS_FAILED) == "OutputsFailed"
    assert not play.sandbox.running
    play.world.preparations_fail = False
    play.turn()
    assert play.reason(ConditionType.OUTPUTS_FAILED) is None
    play.world.patch({"spec": {"sandbox": {"buckets": None}}})
    play.turn()
    failed = play.status.condition(ConditionType.OUTPUTS_FAILED)
    assert failed is not None
    assert "no bucket at /mnt/data" in failed.message
    assert not play.sandbox.running
