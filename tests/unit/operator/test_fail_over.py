"""What the next leader knows of a session, although its cache is empty."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest
from managed_session_api.times import to_wire
from managed_session_operator.domain.offer import Offer
from managed_session_operator.domain.step import Step
from pydantic import SecretStr

from .examples import ENVIRONMENT, NAME, SESSION, settings
from .process import Process
from .world import World

START_TIMEOUT = settings().worker_start_timeout_seconds
END_EVENT = "session.status_terminated"


class Installation:
    """A world with one leader at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.world = World()
        self._loop = loop
        self._before: list[Process] = []
        self.leader = Process(self.world, loop)

    def fail_over(self) -> None:
        """Another process becomes the leader, with an empty cache."""
        self.world.epoch += 1
        self.leader.is_superseded()
        self._before.append(self.leader)
        self.leader = Process(self.world, self._loop)

    def work_is_offered(self) -> None:
        """A message arrives, and the leader gets its work."""
        world = self.world
        world.messages += 1
        world.message_count += 1
        world.queue()
        world.offered_at = world.now
        offer = Offer(SESSION, SESSION, ENVIRONMENT, world.now, SecretStr("wrapped"))
        self.leader.context.inbox.put(offer)

    def settle(self) -> None:
        """Reconcile until the leader has nothing to do at once."""
        for _ in range(20):
            again = self.leader.reconcile()
            if again is None or again > 1:
                return
            self.world.now += timedelta(seconds=again)
        raise AssertionError("no end of steps")

    def end(self) -> None:
        """End all processes."""
        for process in (*self._before, self.leader):
            process.end()


@pytest.fixture
def installation() -> Iterator[Installation]:
    loop = asyncio.new_event_loop()
    installation = Installation(loop)
    yield installation
    installation.end()
    loop.close()


def test_fail_overs_do_not_extend_the_wait_for_the_first_heartbeat(installation: Installation) -> None:
    """Otherwise a worker that hangs would never be restarted."""
    installation.work_is_offered()
    installation.settle()
    claim = installation.world.part("work")["claim"]
    for _ in range(3):
        installation.world.now += timedelta(seconds=START_TIMEOUT * 0.4)
        installation.fail_over()
        installation.settle()
    # The end of the worker that was stopped comes by its stream.
    installation.settle()
    work = installation.world.part("work")
    assert (work["attempts"], work["claim"] != claim) == (2, True)


def test_a_resumed_sandbox_extends_the_wait_even_for_the_next_leader(installation: Installation) -> None:
    """The worker could not send a heartbeat meanwhile."""
    installation.work_is_offered()
    installation.settle()
    installation.world.now += timedelta(seconds=START_TIMEOUT * 0.9)
    (sandbox,) = installation.world.sandboxes
    sandbox.paused_at = installation.world.now
    installation.leader.context.cache(NAME).disconnect()
    installation.settle()
    assert sandbox.running
    installation.world.now += timedelta(seconds=START_TIMEOUT * 0.5)
    installation.fail_over()
    installation.settle()
    assert installation.world.part("work")["attempts"] == 1
    assert sandbox.worker is not None


def test_the_next_leader_does_not_check_a_false_end_event_again(installation: Installation) -> None:
    world = installation.world
    installation.work_is_offered()
    installation.settle()
    world.write(lastEvent={"id": "whe_end", "type": END_EVENT, "createdAt": to_wire(world.now)})
    installation.settle()
    assert world.part("recovery")["checkedEndEvent"] == "whe_end"
    installation.fail_over()
    steps = []
    for _ in range(5):
        installation.leader.reconcile()
        steps.append(installation.leader.context.cache(NAME).trying)
    assert Step.CONFIRM_END.name not in steps
    world.write(lastEvent={"id": "whe_end_2", "type": END_EVENT, "createdAt": to_wire(world.now)})
    installation.settle()
    assert world.part("recovery")["checkedEndEvent"] == "whe_end_2"
