"""When a loop counts as stuck."""

from __future__ import annotations

import asyncio

import pytest
from managed_session_operator.controller.liveness import Liveness, WatchProgress
from managed_session_operator.controller.reconcile_queue import ReconcileQueue

from .clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_silent_loop_is_stuck_until_its_next_sign_of_life(clock: Clock) -> None:
    liveness = Liveness(clock)
    liveness.expect("lease", 10)
    clock.now += 10
    assert liveness.check() == (True, {})
    clock.now += 5
    assert liveness.check() == (False, {"stuck": {"lease": 5.0}})
    liveness.beat("lease")
    assert liveness.check() == (True, {})


def test_a_loop_that_sleeps_on_purpose_may_be_silent_for_that_time(clock: Clock) -> None:
    liveness = Liveness(clock)
    liveness.expect("claims", 10)
    liveness.beat("claims", 120)
    clock.now += 130
    assert liveness.check()[0]
    clock.now += 1
    assert not liveness.check()[0]


def test_a_loop_that_has_ended_cleanly_is_not_stuck(clock: Clock) -> None:
    liveness = Liveness(clock)
    liveness.expect("resync", 10)
    liveness.forget("resync")
    liveness.beat("resync")
    clock.now += 100
    assert liveness.check() == (True, {})


async def test_a_reconcile_that_never_ends_is_stuck() -> None:
    queue = ReconcileQueue(concurrency=2)
    liveness = Liveness()
    liveness.measure("reconcile", queue.longest, 0.0)
    begun, go = asyncio.Event(), asyncio.Event()

    async def reconcile(_: str) -> None:
        begun.set()
        await go.wait()

    running = asyncio.create_task(queue.run(reconcile))
    queue.add("a-session")
    assert liveness.check()[0]
    await begun.wait()
    assert list(liveness.check()[1]["stuck"]) == ["reconcile"]
    go.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert liveness.check()[0]
    running.cancel()


def test_a_watch_owes_a_known_change_until_it_delivers_it(clock: Clock) -> None:
    progress = WatchProgress(clock)
    progress.watched(10)
    progress.known(10)
    assert progress.behind_seconds() == 0
    progress.known(12)
    clock.now += 7
    progress.known(15)
    assert progress.behind_seconds() == 7
    progress.watched(11)
    assert progress.behind_seconds() == 7
    progress.watched(12)
    assert progress.behind_seconds() == 0


def test_a_busy_watch_that_is_always_a_little_late_owes_nothing_for_long(clock: Clock) -> None:
    progress = WatchProgress(clock)
    for version in range(10, 1000, 10):
        progress.watched(version)
        progress.known(version + 5)
        clock.now += 1
        assert progress.behind_seconds() <= 1


def test_a_deleted_resource_is_no_longer_owed(clock: Clock) -> None:
    progress = WatchProgress(clock)
    progress.watched(10)
    progress.known(12)
    clock.now += 100
    progress.known(9)
    assert progress.behind_seconds() == 0
