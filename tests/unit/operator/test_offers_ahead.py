"""Offers that are taken ahead of the slots: no class's work stays unseen, and none is lost."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from managed_session_api.names import resource_name
from managed_session_api.resource import ManagedSession
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.controller.work_poller import WorkPoller
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.offer import Offer
from managed_session_operator.metrics import Metrics
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.offers import claim
from managed_session_operator.steps.waiting import waiting_since
from pydantic import SecretStr

from ...support.merge_patch import merge_patch
from ...support.waiting import eventually
from .contexts import context
from .examples import ENVIRONMENT, NOW, body, class_body, settings

SLOTS = 2
AHEAD = 6
FLOOD = [f"sesn_flood_{number:02}" for number in range(40)]
QUIET = "sesn_quiet"


class Outside:
    """Anthropic's queue, which returns the oldest item that is due, and an API server with their resources.

    The agent of a session is the part of its ID that names it.
    """

    def __init__(self, sessions: list[str]) -> None:
        self.items = list(sessions)
        self.acknowledged: list[str] = []
        self.polls = 0
        self._offered_at: dict[str, float] = {}
        self.bodies = {
            resource_name(each): body(
                resource_name(each), session=each, uid=each, spec={"agentID": each.split("_")[1]}
            )
            for each in sessions
        }

    async def poll(self, *, block_ms: int, reclaim_ms: int) -> Offer | None:
        self.polls += 1
        now = asyncio.get_running_loop().time()
        for session_id in self.items:
            last = self._offered_at.get(session_id, float("-inf"))
            if session_id not in self.acknowledged and now - last >= reclaim_ms / 1000:
                self._offered_at[session_id] = now
                at = NOW + timedelta(milliseconds=self.polls)
                return Offer(session_id, session_id, ENVIRONMENT, at, SecretStr("token"))
        await asyncio.sleep(block_ms / 1000)
        return None

    async def acknowledge(self, session_id: str) -> bool:
        assert session_id not in self.acknowledged, "served once"
        self.acknowledged.append(session_id)
        return True

    def key_lines(self) -> tuple[str, ...]:
        return ("key",)

    async def put(self, *_: object) -> None:
        """Store a token."""

    async def get(self, name: str) -> dict[str, Any]:
        return self.bodies[name]

    async def patch_status(self, resource: ManagedSession, status: dict[str, Any]) -> dict[str, Any]:
        name = resource.metadata.name
        version = str(int(self.bodies[name]["metadata"]["resourceVersion"]) + 1)
        patch = {"metadata": {"resourceVersion": version}, "status": status}
        self.bodies[name] = merge_patch(self.bodies[name], patch)
        return self.bodies[name]


class Operator:
    """The poller and the step that claims, with a capacity. A claimed session runs until the test ends it."""

    def __init__(self, outside: Outside) -> None:
        self.outside = outside
        self.running: list[str] = []
        self.most_offers = 0
        self._woken: asyncio.Queue[str] = asyncio.Queue()
        self.capacity = Capacity(SLOTS, 0, offers_ahead=AHEAD, wake=self._woken.put_nowait)
        self.context: Context = context(
            store=outside,
            queue=outside,
            sessions=outside,
            tokens=outside,
            capacity=self.capacity,
            settings=settings(reclaim_seconds=1, poll_block_milliseconds=20),
        )
        for each in outside.bodies.values():
            self.context.records.cache.observe(each)
        self.poller = WorkPoller(
            self.context.queue,
            self.context.inbox,
            self.capacity,
            on_offer=lambda session_id: self._woken.put_nowait(resource_name(session_id)),
            on_queue_error=lambda _: None,
            on_turn=lambda _: None,
            settings=self.context.settings,
            metrics=Metrics(),
        )

    async def offer(self, session_id: str, second: int) -> ManagedSession:
        """Make an offer of the session `second` seconds after NOW, and take the claiming step."""
        at = NOW + timedelta(seconds=second)
        self.context.inbox.put(Offer(session_id, session_id, ENVIRONMENT, at, SecretStr("token")))
        return await self.claim(session_id)

    async def claim(self, session_id: str) -> ManagedSession:
        """Take the claiming step for the session."""
        name, resources = resource_name(session_id), self.context.records.cache
        resource = resources.get(name)
        assert resource is not None
        await claim(self.context, resource)
        return resources.get(name) or resource

    def use_classes(self) -> None:
        """Make a class for each agent."""
        for name in ("flood", "quiet"):
            self.context.classes.cache.observe(class_body(name, spec={"selector": {"agentIDs": [name]}}))
        self.context.share_slots()

    async def claims(self) -> None:
        """Take the claiming step for whoever is offered or woken, until cancelled."""
        while True:
            name = await self._woken.get()
            resource = self.context.records.cache.get(name)
            assert resource is not None
            if self.context.inbox.for_resource(name) is None or claim_active(resource):
                continue
            await claim(self.context, resource)
            self.most_offers = max(self.most_offers, len(self.context.inbox))
            claimed = self.context.records.cache.get(name)
            if claimed is not None and claim_active(claimed):
                await self.outside.acknowledge(claimed.spec.session_id)
                self.running.append(claimed.spec.session_id)

    def end(self, session_id: str) -> None:
        """End the session's turn."""
        self.running.remove(session_id)
        self.capacity.release(resource_name(session_id))

    async def fills_slots(self) -> None:
        """Wait until all slots are in use."""

        async def full() -> bool:
            return len(self.running) == SLOTS

        await eventually("all slots are in use", full)


@pytest.fixture
def outside() -> Outside:
    return Outside([*FLOOD, QUIET])


async def test_work_behind_a_flood_is_seen_and_gets_the_next_slot(outside: Outside) -> None:
    operator = Operator(outside)
    operator.use_classes()
    async with asyncio.TaskGroup() as tasks:
        loops = [tasks.create_task(operator.poller.run()), tasks.create_task(operator.claims())]
        await operator.fills_slots()

        async def seen() -> bool:
            return operator.capacity.waits(resource_name(QUIET))

        await eventually("the quiet class's work is seen", seen)
        assert QUIET not in outside.acknowledged
        operator.end(FLOOD[0])
        await operator.fills_slots()
        assert outside.acknowledged == [*FLOOD[:SLOTS], QUIET]
        for loop in loops:
            loop.cancel()


async def test_all_of_a_flood_beyond_the_bound_is_served_once_the_oldest_first(outside: Outside) -> None:
    operator = Operator(outside)
    operator.use_classes()
    async with asyncio.TaskGroup() as tasks:
        loops = [tasks.create_task(operator.poller.run()), tasks.create_task(operator.claims())]
        while len(outside.acknowledged) < len(outside.items):
            await operator.fills_slots()
            if len(outside.acknowledged) < len(outside.items):
                operator.end(operator.running[0])
        for loop in loops:
            loop.cancel()
    assert sorted(outside.acknowledged) == sorted(outside.items)
    served = [each for each in outside.acknowledged if each != QUIET]
    assert served[:AHEAD] == FLOOD[:AHEAD]
    assert operator.most_offers <= AHEAD + SLOTS + operator.context.settings.poll_concurrency


async def test_without_classes_work_that_cannot_be_served_stays_in_the_queue(outside: Outside) -> None:
    operator = Operator(outside)
    async with asyncio.TaskGroup() as tasks:
        loops = [tasks.create_task(operator.poller.run()), tasks.create_task(operator.claims())]
        await operator.fills_slots()
        polls = outside.polls
        for number in range(3):
            operator.end(operator.running[0])
            await operator.fills_slots()
            assert outside.acknowledged == FLOOD[: SLOTS + number + 1]
        assert outside.polls <= polls + 2 * 3 + operator.context.settings.poll_concurrency
        for loop in loops:
            loop.cancel()


async def test_an_offer_that_is_left_after_it_was_renewed_keeps_its_rank(outside: Outside) -> None:
    operator = Operator(outside)
    operator.use_classes()
    waiting = FLOOD[SLOTS : SLOTS + AHEAD]
    for second, session_id in enumerate([*FLOOD[:SLOTS], *waiting]):
        await operator.offer(session_id, second)
    for session_id in waiting:
        await operator.offer(session_id, 120)
    assert operator.capacity.waiting == AHEAD
    await operator.offer(QUIET, 130)
    await operator.claim(waiting[-1])
    assert not operator.capacity.waits(resource_name(waiting[-1]))
    first_offered = NOW + timedelta(seconds=SLOTS + AHEAD - 1)
    assert operator.context.inbox.left_since(waiting[-1]) == first_offered


async def test_claimed_work_that_e2b_refuses_keeps_the_rank_of_its_first_offer(outside: Outside) -> None:
    operator = Operator(outside)
    operator.use_classes()
    for second, session_id in enumerate(FLOOD[: SLOTS + 2]):
        await operator.offer(session_id, second)
    oldest = FLOOD[SLOTS]
    await operator.offer(oldest, 120)
    operator.capacity.release(resource_name(FLOOD[0]))
    claimed = await operator.claim(oldest)
    assert claim_active(claimed)
    assert waiting_since(operator.context, claimed) == NOW + timedelta(seconds=SLOTS)
