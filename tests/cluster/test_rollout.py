"""Rollouts and the end of a leader while a hundred turns run."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.pod import Pod

from ..support.held import HOLD, holding, let_all_go
from ..support.leaders import leader, lease
from ..support.sessions import QUICK, TOTALS_OF_TROUBLE, begin, refused_calls
from ..support.systems import StartSystem
from ..support.waiting import eventually
from .service import Service, running_service

pytestmark = pytest.mark.alone

SESSIONS = 100
HAND_OVER_SECONDS = 12.0
"""Generous for a busy machine; it is about a second, and would be 15 by the Lease's end."""

SETTINGS = {
    **QUICK,
    # Calls take their time with a hundred sandboxes on two cores.
    "lease_duration_seconds": "9",
    "lease_renew_seconds": "2",
    "request_timeout_seconds": "8",
    "create_timeout_seconds": "8",
    "kubernetes_timeout_seconds": "8",
    "resync_interval_seconds": "5",
    "max_active_sandboxes": "130",
    "prewarm_capacity_percent": "100",
    "sandbox_creation_rate": "100",
    "sandbox_creation_burst": "100",
}


async def acquired_at(system: LocalSystem) -> datetime:
    """When the present leader took the Lease, as the API server has it."""
    return datetime.fromisoformat((await lease(system))["acquireTime"])


async def test_leader_that_is_told_to_end_hands_over_at_once(start_system: StartSystem) -> None:
    system = await start_system(operators=2)
    first = await leader(system)
    async with begin(system) as conversation:
        await conversation.send("Run: sleep 3; echo done")
        told = datetime.now(UTC)
        ending = asyncio.create_task(end(first))
        await leader(system, other_than=first)
        seconds = (await acquired_at(system) - told).total_seconds()
        assert 0 < seconds < HAND_OVER_SECONDS
        assert "done" in await conversation.answer()
        await ending


async def end(pod: Pod) -> None:
    """Send SIGTERM and wait for the end within the grace period, as the kubelet does."""
    await pod.process.stop(grace_seconds=30)


class Turns:
    """A hundred and a few turns under way, whose commands end when they are told to."""

    def __init__(self, system: LocalSystem, stack: AsyncExitStack) -> None:
        self._system = system
        self._stack = stack
        self.conversations: list[Conversation] = []

    async def begin(self) -> Conversation:
        conversation = await self._stack.enter_async_context(begin(self._system))
        self.conversations.append(conversation)
        await conversation.send(f"Run: {HOLD}; echo answered")
        return conversation

    async def all_run(self) -> bool:
        return await holding(self._system) == len(self.conversations)


async def roll_out_operators(system: LocalSystem, turns: Turns) -> None:
    """As the Deployment does it: a new pod that is ready, then the end of an old one."""
    for old in list(system.operators):
        await system.start_operator()
        await turns.begin()
        await end(old)
        system.operators.remove(old)


async def roll_out_webhooks(system: LocalSystem, service: Service, olds: list[Pod], turns: Turns) -> None:
    for old in olds:
        pod, url = await system.start_webhook(webhook_shutdown_delay_seconds="1")
        service.add(pod, url)
        await eventually("the new webhook is an endpoint", partial(service.ready, pod))
        ending = asyncio.create_task(end(old))
        await turns.begin()
        await ending


@pytest.mark.timeout(600)
async def test_rollouts_and_a_killed_leader_under_a_hundred_turns_cost_none_of_them(
    start_system: StartSystem,
) -> None:
    system = await start_system(
        operators=2,
        operator_settings=SETTINGS,
        webhook_settings={"webhook_shutdown_delay_seconds": "1"},
        register_webhook=False,
        e2b_settings={"max_concurrent_sandboxes": 130},
    )
    async with running_service() as service, AsyncExitStack() as stack:
        await register(system, service)
        webhooks = [system.webhook]
        second, url = await system.start_webhook(webhook_shutdown_delay_seconds="1")
        service.add(second, url)
        webhooks.append(second)
        turns = Turns(system, stack)
        await asyncio.gather(*(turns.begin() for _ in range(SESSIONS)))
        await eventually("a hundred turns run", turns.all_run, seconds=90)

        await roll_out_webhooks(system, service, webhooks, turns)
        await roll_out_operators(system, turns)
        killed = await leader(system)
        await killed.kill()
        system.operators.remove(killed)
        await turns.begin()
        await leader(system)
        await eventually("all turns run, the new ones too", turns.all_run, seconds=60)

        await let_all_go(system)
        answers = await asyncio.gather(*(each.answer(timeout_seconds=120) for each in turns.conversations))
        assert all("answered" in answer for answer in answers)

        async def all_paused() -> bool:
            return len(await system.e2b_admin.sandboxes("paused")) == len(turns.conversations)

        await eventually("all sandboxes are paused", all_paused, seconds=60)
    await nothing_was_lost(system, len(turns.conversations))


async def register(system: LocalSystem, service: Service) -> None:
    """The Service's address is what Anthropic knows."""
    port = system.webhook_url
    service.add(system.webhook, port)
    endpoint = await system.anthropic_admin.add_webhook(service.url)
    system.webhook.set_credential("anthropic-webhook-signing-key", endpoint.secret)


async def nothing_was_lost(system: LocalSystem, turns: int) -> None:
    clouds = await system.e2b_admin.ledger()
    assert len(await system.e2b_admin.sandboxes()) == turns, "one sandbox each, and never another"
    assert refused_calls(clouds) == {}, "E2B had nothing to refuse"
    ledger = await system.anthropic_admin.ledger(calls=False)
    totals = ledger.totals
    assert totals["turns_answered"] == totals["messages"] == totals["leases"] == turns, "one worker a turn"
    for clean in TOTALS_OF_TROUBLE:
        assert totals[clean] == 0, clean
    answered_badly = {
        (operation, status): count
        for operation, statuses in ledger.operations.items()
        for status, count in statuses.items()
        if status in ("401", "403") or status.startswith("5")
    }
    assert answered_badly == {}, "no key was refused, and nothing broke"
    refused_events = [each for each in ledger.deliveries if each.get("status") not in (204, None)]
    assert refused_events == [], "no event was refused"
    _, stranded = await system.anthropic_admin.work()
    assert stranded == []
