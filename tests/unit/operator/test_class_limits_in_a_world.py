"""Turns that are too long and budgets that are spent: the real steps in the in-memory world."""

from __future__ import annotations

import pytest

from .in_memory_clouds import InMemoryQueue
from .play import Play, gold


def test_a_turn_that_is_too_long_is_interrupted_and_short_ones_are_not(play: Play) -> None:
    gold(play, limits={"maxTurnSeconds": 600})
    play.starts()
    for _ in range(3):
        play.world.time_passes(500)
        # A message is answered, and the next one comes while the worker waits.
        play.world.messages = 0
        play.settle()
        play.message(announced=False)
        play.settle()
        assert play.world.messages
    play.world.time_passes(601)
    play.settle()
    assert not play.world.messages, "interrupted"
    assert play.sandbox.worker is not None, "its worker ends by itself"
    play.ends()
    assert play.reason() == "Idle"


@pytest.fixture
def without_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InMemoryQueue, "possible", False)


@pytest.mark.usefixtures("without_api_key")
def test_without_an_api_key_the_worker_ends_and_the_session_waits_for_its_user(play: Play) -> None:
    gold(play, limits={"maxTurnSeconds": 600})
    play.starts()
    play.world.time_passes(601)
    play.settle()
    assert play.reason() == "TurnTooLong"
    assert play.sandbox.paused_at is not None
    for _ in range(3):
        # The lease lapses, and the queue offers the work again and again.
        play.world.time_passes(301)
        play.serve()
        assert play.reason() == "TurnTooLong"
        assert play.sandbox.paused_at is not None
    play.world.interrupt()
    play.starts()
    assert play.sandbox.worker is not None
    play.ends()
    assert (play.reason(), play.world.messages) == ("Idle", 0)


@pytest.mark.usefixtures("without_api_key")
@pytest.mark.parametrize("how", ["raised", "gone"])
def test_without_the_limit_the_turn_goes_on(play: Play, how: str) -> None:
    gold(play, limits={"maxTurnSeconds": 600})
    play.starts()
    play.world.time_passes(601)
    play.settle()
    if how == "raised":
        gold(play, limits={"maxTurnSeconds": 60_000})
    else:
        play.world.classes.clear()
    play.world.time_passes(301)
    play.serve()
    assert play.sandbox.worker is not None
    play.ends()
    assert (play.reason(), play.world.messages) == ("Idle", 0)


def test_a_spent_budget_holds_the_next_turn_back_until_the_next_day(play: Play) -> None:
    gold(play, limits={"maxActiveSecondsPerDay": 60})
    play.starts()
    play.world.time_passes(100)
    play.settle()
    assert play.reason() == "Running", "a turn in progress goes on"
    play.ends()
    assert play.status.active_today is not None
    assert play.status.active_today.seconds >= 100
    play.starts()
    assert play.reason() == "BudgetReached"
    assert play.sandbox.paused_at is not None
    play.take_over()
    play.serve()
    assert play.reason() == "BudgetReached", "for the next leader too"
    play.world.time_passes(86_400)
    play.serve()
    assert play.reason() == "Running"
    play.ends()


def test_a_raised_budget_lets_the_session_go_on(play: Play) -> None:
    gold(play, limits={"maxActiveSecondsPerDay": 60})
    play.starts()
    play.world.time_passes(100)
    play.ends()
    play.starts()
    assert play.reason() == "BudgetReached"
    gold(play, limits={"maxActiveSecondsPerDay": 6000})
    play.serve()
    assert play.reason() == "Running"
    play.ends()
