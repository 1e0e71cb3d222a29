"""A session waits for its user for a day: what is billed, and how it goes on, whatever the platform does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .examples import NAME
from .play import Play

DAY = 86_400
STEP = 30


@pytest.fixture
def play() -> Iterator[Play]:
    session = Play()
    yield session
    session.teardown()


def waits(play: Play, *, queues_lapsed: bool, answers_queue: bool) -> None:
    """A turn comes to a call that its user has to answer."""
    play.world.queues_lapsed, play.world.answers_queue = queues_lapsed, answers_queue
    play.starts()
    play.world.await_user()
    play.settle()


def passes(play: Play, seconds: int) -> int:
    """Let time pass, with polls and resyncs. Return for how many seconds a sandbox ran."""
    ran = 0
    for _ in range(seconds // STEP):
        play.world.time_passes(STEP)
        ran += STEP * any(each.running for each in play.world.sandboxes)
        play.poll()
        play.operator.resync()
        play.settle()
    return ran


@pytest.mark.parametrize("queues_lapsed", [True, False])
@pytest.mark.parametrize("answers_queue", [True, False])
def test_day_of_waiting_bills_seconds_and_the_answer_is_served(
    play: Play, queues_lapsed: bool, answers_queue: bool
) -> None:
    waits(play, queues_lapsed=queues_lapsed, answers_queue=answers_queue)
    assert passes(play, DAY) <= 60 + STEP
    assert play.reason() == "AwaitingUser"
    assert play.status.sandbox.state == "Paused"
    assert not play.operator.context.capacity.holds(NAME)
    [sandbox] = [each for each in play.world.sandboxes if each.alive]
    play.world.answer()
    for _ in range(20):
        passes(play, STEP)
        play.world.beat()
        play.settle()
    assert play.world.worker is sandbox, "the same sandbox serves the answer"
    assert play.reason() == "Running"
    play.ends()
    assert (play.reason(), play.world.messages) == ("Idle", 0)


def test_answer_within_the_lease_goes_on_under_the_same_claim(play: Play) -> None:
    waits(play, queues_lapsed=True, answers_queue=False)
    claim = play.status.work.claim
    passes(play, 120)
    assert play.status.work.wait_paused_at is not None
    play.world.answer()
    passes(play, 60)
    assert (play.status.work.claim, play.reason()) == (claim, "Running")
    assert play.status.work.wait_paused_at is None
    assert play.status.work.wait_resumed_at is not None


def test_wait_of_one_thread_pauses_nothing_while_another_works(play: Play) -> None:
    """The worker says that it waits, and Anthropic that a call of another thread is open."""
    waits(play, queues_lapsed=True, answers_queue=False)
    play.world.other_thread_works = True
    assert passes(play, 300) == 300
    assert play.status.work.wait_paused_at is None
    play.world.other_thread_works = False
    passes(play, 120)
    assert play.status.sandbox.state == "Paused"
    play.world.answer()


@pytest.mark.parametrize("suspended", [True, False])
def test_next_leader_suspension_and_deletion_find_the_session_waiting(play: Play, suspended: bool) -> None:
    waits(play, queues_lapsed=True, answers_queue=False)
    passes(play, 600)
    play.take_over()
    assert passes(play, 600) == 0
    assert play.reason() == "AwaitingUser"
    if suspended:
        play.suspend(True)
        assert passes(play, 300) == 0
        assert play.reason() == "Suspended"
        play.suspend(False)
        assert passes(play, 300) == 0
        assert play.reason() == "AwaitingUser"
    else:
        play.world.delete()
        passes(play, 300)
        assert play.world.released
        assert not any(each.alive for each in play.world.sandboxes)
        assert play.world.item == "queued", "the turn is not lost: its work makes a new resource"
