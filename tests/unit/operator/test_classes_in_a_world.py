"""What classes do to a session from turn to turn: the real steps in the in-memory world."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from .gate import Passage
from .play import Play, gold

DENY = "0.0.0.0/0"
GOLD_METADATA = {"sessionMetadata": {"matchLabels": {"tier": "gold"}}}


def test_a_turn_with_a_class_costs_as_many_writes_as_one_without(play: Play) -> None:
    without = Play()
    gold(play, "gold:1", DENY)
    assert play.turn() == without.turn()
    assert play.turn() == without.turn()
    assert "class" not in without.world.body["status"]
    assert without.policy_reason is None
    assert play.status.session_class is not None
    assert (play.sandbox.template, play.sandbox.deny) == ("gold:1", (DENY,))
    assert play.status.effective is not None
    assert play.status.effective.origins is not None
    assert play.status.effective.origins["template"] == "class/gold@1"
    assert play.policy_reason is None
    without.operator.end()
    without.loop.close()


def test_network_rules_change_under_the_turn_and_the_template_with_the_next_sandbox(play: Play) -> None:
    gold(play)
    play.starts()
    gold(play, "gold:2", DENY)
    play.settle()
    assert (play.sandbox.template, play.sandbox.deny) == ("gold:1", (DENY,))
    assert play.policy_reason == "ClassChanged"
    effective = play.status.effective
    assert effective is not None
    assert effective.origins is not None
    assert (effective.template, effective.origins["template"]) == ("gold:1", "class/gold@1")
    assert effective.origins["network"] == "class/gold@2"
    play.ends()
    play.sandbox_vanishes()
    play.resync()
    play.settle()
    play.starts()
    assert (play.sandbox.template, play.sandbox.deny) == ("gold:2", (DENY,))
    assert play.policy_reason is None


def test_a_resumed_sandbox_has_the_new_rules_before_its_worker_starts(play: Play) -> None:
    gold(play)
    play.turn()
    gold(play, "gold:1", DENY)
    play.settle()
    assert not play.sandbox.deny
    play.message(announced=False)
    play.poll()
    play.settle()
    assert play.sandbox.worker is not None
    assert play.sandbox.deny == (DENY,)


@pytest.mark.parametrize("effects", range(3))
@pytest.mark.parametrize("passage", [Passage.LOST, Passage.REFUSED])
def test_rules_whose_answer_was_lost_are_replaced_although_the_class_went_back(
    play: Play, effects: int, passage: Passage
) -> None:
    gold(play)
    play.starts()
    gold(play, "gold:1", DENY)
    play.operator.link.gate.after(effects, passage)
    play.operator.reconcile()
    play.operator.link.gate.open()
    gold(play)
    play.settle()
    assert not play.sandbox.deny


@pytest.mark.parametrize("effects", range(7))
@pytest.mark.parametrize("cut", [False, True], ids=["goes on", "another leader"])
def test_a_class_that_changes_during_a_claim_is_recorded_before_it_has_an_effect(
    play: Play, effects: int, cut: bool
) -> None:
    gold(play)
    play.message(announced=False)
    play.poll()
    assert play.operator.reaches(effects)
    gold(play, "gold:2", DENY)
    if cut:
        play.take_over()
        play.serve()
    else:
        play.operator.hear_of_classes()
        play.operator.goes_on()
        play.settle()
        play.world.beat()
        play.settle()
    effective = play.status.effective
    assert effective is not None
    assert effective.network is not None
    # The world has checked each create against the status.
    assert play.sandbox.template == effective.template
    assert play.sandbox.deny == tuple(effective.network.deny) == (DENY,)
    assert play.policy_reason == (None if play.sandbox.template == "gold:2" else "ClassChanged")
    play.ends()
    assert not play.world.messages


def test_a_create_that_may_have_been_sent_is_not_repeated_with_other_values(play: Play) -> None:
    gold(play)
    play.message(announced=False)
    play.world.lag = timedelta(seconds=300)
    play.poll()
    assert play.operator.reaches(0)
    while not play.world.sandboxes:
        # One effect after the other, until the create is done. Its answer is lost with the leader.
        assert play.operator.reaches_next(0)
    play.take_over()
    gold(play, "gold:2", DENY)
    play.serve()
    assert [each.template for each in play.world.sandboxes] == ["gold:1", "gold:2"]
    play.world.time_passes(300)
    play.resync()
    play.resync()
    assert play.sandbox.template == "gold:2", "the other one is killed"
    assert play.policy_reason is None


def test_a_session_of_two_equal_classes_waits_and_is_served_once_one_is_higher(play: Play) -> None:
    gold(play, "gold:1", selector={"agentNames": ["coder"]})
    gold(play, "silver:1", name="silver", selector={"environmentID": "env_01"})
    play.starts()
    assert (play.reason(), play.policy_reason) == ("AmbiguousClass", "AmbiguousClass")
    assert not play.world.sandboxes
    written = play.world.version
    play.serve()
    play.settle()
    assert play.world.version == written, "it says so once"
    gold(play, "silver:1", name="silver", selector={"environmentID": "env_01"}, precedence=1)
    play.serve()
    assert play.sandbox.template == "silver:1"
    assert play.policy_reason is None
    play.ends()
    assert not play.world.messages


def test_a_tie_leaves_a_served_session_its_class(play: Play) -> None:
    gold(play, "gold:1", selector={"agentNames": ["coder"]})
    play.turn()
    gold(play, "silver:1", name="silver", selector={"environmentID": "env_01"})
    play.turn()
    assert play.status.session_class is not None
    assert play.status.session_class.name == "gold"
    assert play.policy_reason is None


def test_the_next_turn_has_the_class_that_the_metadata_select_by_then(play: Play) -> None:
    gold(play, "gold:1", DENY, selector=GOLD_METADATA)
    play.world.metadata = {"tier": "gold"}
    play.turn()
    assert play.status.session_class is not None
    play.world.metadata = {}
    play.turn()
    assert play.status.session_class is None
    play.world.metadata = {"tier": "gold"}
    play.turn()
    assert play.status.session_class is not None
    assert play.sandbox.deny == (DENY,)


def test_the_first_class_of_a_session_brings_its_sandbox_the_rules_that_the_status_says(play: Play) -> None:
    play.turn()
    play.world.patch({"spec": {"sandbox": {"network": {"deny": [DENY]}}}})
    play.world.set_class("gold", {})
    play.turn()
    effective = play.status.effective
    assert effective is not None
    assert effective.network is not None
    assert play.sandbox.deny == tuple(effective.network.deny) == (DENY,)
    assert play.policy_reason is None


def test_after_its_class_the_session_is_served_with_the_settings(play: Play) -> None:
    gold(play, "gold:1", DENY)
    play.turn()
    play.world.classes.clear()
    play.settle()
    assert play.status.session_class is not None, "until the next turn"
    play.turn()
    assert play.status.session_class is None
    assert play.sandbox.deny == ()
    assert play.policy_reason == "ClassChanged"
    play.sandbox_vanishes()
    play.resync()
    play.settle()
    play.turn()
    assert play.policy_reason is None
    assert play.status.sandbox.created_with is None
    assert play.sandbox.template != "gold:1"


def test_a_class_of_the_same_name_is_another_class(play: Play) -> None:
    gold(play)
    play.turn()
    before = play.status.session_class
    play.world.classes.clear()
    gold(play, "gold:2")
    play.turn()
    after = play.status.session_class
    assert before is not None
    assert after is not None
    assert before.uid != after.uid
    assert play.policy_reason == "ClassChanged"


def test_a_locked_field_is_named_until_it_is_unlocked(play: Play) -> None:
    gold(play, "gold:1", locked=["template"])
    play.message(announced=False)
    play.world.patch({"spec": {"sandbox": {"template": "own:1"}}})
    play.serve()
    assert play.sandbox.template == "gold:1"
    assert play.policy_reason == "LockedField"
    play.ends()
    gold(play, "gold:1")
    play.settle()
    assert play.policy_reason == "ClassChanged", "the sandbox still has the class's template"


@pytest.mark.parametrize("selector", [{}, {"selector": GOLD_METADATA}], ids=["default", "by metadata"])
def test_a_class_suspends_its_sessions(play: Play, selector: dict[str, Any]) -> None:
    suspended = {"session": {"lifecycle": {"suspend": True}}, **selector}
    play.world.metadata = {"tier": "gold"}
    play.world.set_class("gold", selector)
    play.starts()
    play.world.set_class("gold", suspended)
    play.settle()
    assert play.reason() == "Suspended"
    assert play.sandbox.paused_at is not None
    play.take_over()
    play.starts()
    assert play.reason() == "Suspended", "for the next leader too"
    assert play.sandbox.paused_at is not None
    play.world.set_class("gold", selector)
    play.settle()
    assert play.reason() != "Suspended"
    play.world.time_passes(300)
    play.serve()
    assert play.reason() == "Running"
    play.ends()


def test_a_session_that_says_so_itself_is_not_suspended_by_its_class(play: Play) -> None:
    play.world.set_class("gold", {"session": {"lifecycle": {"suspend": True}}})
    play.starts()
    assert play.reason() == "Suspended"
    assert not play.world.sandboxes
    play.world.patch({"spec": {"lifecycle": {"suspend": False}}})
    play.serve()
    assert play.reason() == "Running"
    play.ends()


@pytest.mark.parametrize(("announced", "effects"), [(True, 1), (True, 2), (False, 1), (False, 2), (False, 3)])
@pytest.mark.parametrize("before", ["", "gold:1"])
def test_a_class_that_changes_under_an_open_create_says_what_its_request_said(
    play: Play, announced: bool, effects: int, before: str
) -> None:
    if before:
        gold(play, before)
    play.offer_is_not_used()
    play.message(announced=announced)
    if not announced:
        play.poll()
    assert play.operator.reaches(effects)
    gold(play, "gold:2", DENY)
    play.take_over()
    play.serve()
    effective = play.status.effective
    assert effective is not None
    # A class that is made under a claim does not serve it.
    deny = (DENY,) if play.status.session_class is not None else ()
    assert (play.sandbox.template, play.sandbox.deny) == (effective.template, deny)
    assert play.status.sandbox.template_id == effective.template
    assert play.sandbox.worker is not None
    if deny:
        assert play.policy_reason == (None if effective.template == "gold:2" else "ClassChanged")
