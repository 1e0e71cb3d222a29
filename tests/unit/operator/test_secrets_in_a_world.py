"""When a sandbox gets which headers: the real steps in the in-memory world."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from managed_session_api.conditions import ConditionType

from .gate import Passage
from .play import Play

HEADER = ("api.example.com", "Authorization")
RESYNC = timedelta(seconds=31)


@pytest.fixture
def play(play: Play) -> Play:
    play.world.secrets["github"] = (1, "old")
    declare(play)
    return play


def declare(play: Play, **more: Any) -> None:
    reference = {"secretRef": {"name": "github", "key": "token"}}
    wanted = [{"host": HEADER[0], "header": HEADER[1], **reference, **more}]
    play.world.patch({"spec": {"sandbox": {"secrets": wanted}}})


def rotate(play: Play, value: str = "new") -> None:
    play.world.secrets["github"] = (play.world.secrets["github"][0] + 1, value)


def look_again(play: Play) -> None:
    """Let the time pass after which the operator looks whether a Secret has changed."""
    play.world.now += RESYNC
    play.resync()
    play.settle()


def test_the_headers_are_there_before_the_worker_starts(play: Play) -> None:
    play.message(announced=False)
    play.poll()
    play.settle()
    assert play.sandbox.worker is not None
    assert play.sandbox.headers == {HEADER: "old"}
    assert play.status.sandbox.egress
    assert "old" not in str(play.world.body)


def test_a_rotated_secret_reaches_the_running_turn(play: Play) -> None:
    play.starts()
    rotate(play)
    look_again(play)
    assert play.sandbox.headers == {HEADER: "new"}
    assert play.sandbox.worker is not None


def test_nothing_is_sent_or_written_while_nothing_changes(play: Play) -> None:
    play.starts()
    look_again(play)
    sent, version = play.sandbox.network_updates, play.world.version
    for _ in range(3):
        look_again(play)
    assert (play.sandbox.network_updates, play.world.version) == (sent, version)


def test_a_secret_that_was_rotated_during_a_pause_is_there_before_the_next_worker(play: Play) -> None:
    play.turn()
    rotate(play)
    play.message(announced=False)
    play.poll()
    play.settle()
    assert play.sandbox.worker is not None
    assert play.sandbox.headers == {HEADER: "new"}


def test_a_sandbox_that_replaces_a_lost_one_gets_the_headers(play: Play) -> None:
    play.turn()
    play.sandbox_vanishes()
    play.resync()
    play.settle()
    play.starts()
    assert play.sandbox.headers == {HEADER: "old"}


def test_a_secret_that_is_gone_stops_no_worker_and_is_told(play: Play) -> None:
    play.starts()
    play.world.secrets.clear()
    look_again(play)
    assert play.reason() == "Running"
    assert play.reason(ConditionType.SECRETS_APPLIED) == "ReferenceInvalid"
    assert play.sandbox.headers == {HEADER: "old"}
    play.world.secrets["github"] = (9, "given back")
    look_again(play)
    assert play.sandbox.headers == {HEADER: "given back"}
    assert play.reason(ConditionType.SECRETS_APPLIED) is None


def test_without_its_secret_a_session_waits_without_a_sandbox(play: Play) -> None:
    play.world.secrets.clear()
    play.message(announced=False)
    play.poll()
    play.settle()
    assert play.reason() == "ReferenceInvalid"
    assert not play.world.sandboxes
    play.world.secrets["github"] = (2, "there")
    play.starts()
    assert play.sandbox.headers == {HEADER: "there"}


def test_a_session_that_no_longer_has_secrets_loses_the_headers(play: Play) -> None:
    play.starts()
    play.world.patch({"spec": {"sandbox": {"secrets": None}}})
    play.settle()
    assert play.sandbox.headers == {}
    assert play.status.sandbox.egress is None


@pytest.mark.parametrize("effects", range(3))
@pytest.mark.parametrize("passage", [Passage.LOST, Passage.REFUSED])
def test_rules_whose_answer_was_lost_are_replaced_although_the_spec_went_back(
    play: Play, effects: int, passage: Passage
) -> None:
    play.starts()
    declare(play, prefix="Bearer ")
    play.operator.link.gate.after(effects, passage)
    play.operator.reconcile()
    play.operator.link.gate.open()
    declare(play)
    play.settle()
    assert play.sandbox.headers == {HEADER: "old"}


@pytest.mark.parametrize("effects", range(4))
def test_another_leader_completes_what_was_cut_off(play: Play, effects: int) -> None:
    play.starts()
    rotate(play)
    play.world.now += RESYNC
    play.operator.reaches(effects)
    play.take_over()
    look_again(play)
    assert play.sandbox.headers == {HEADER: "new"}
    assert play.sandbox.worker is not None
