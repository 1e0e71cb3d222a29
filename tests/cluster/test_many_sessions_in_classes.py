"""Sixty sessions of three classes, while the operator is killed and hands over."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem

from ..support.classes import apply_class, class_known, effective
from ..support.leaders import leader
from ..support.sessions import TOTALS_OF_TROUBLE, begin, resource, sandboxes_of
from ..support.systems import StartSystem
from ..support.waiting import eventually

pytestmark = pytest.mark.alone

SESSIONS = 20
"""Sessions of each class."""
SLOTS = 12
CLASSES = {
    "bronze": {"weight": 1},
    "silver": {"weight": 2, "maxActiveSandboxes": 5},
    "gold": {"weight": 1, "guaranteedSlots": 4},
}
DENIED = {"bronze": "198.51.100.0/24", "silver": "203.0.113.0/24", "gold": "192.0.2.0/24"}


async def _agents(system: LocalSystem) -> dict[str, str]:
    """Make the classes, each for an agent of its own. Return the agents by class."""
    agents = {}
    for name, limits in CLASSES.items():
        agents[name] = await system.anthropic_admin.add_agent()
        session = {
            "sandbox": {
                "metadata": {"team": name},
                "env": {"TEAM": name},
                "network": {"deny": [DENIED[name]]},
            }
        }
        spec = {"selector": {"agentIDs": [agents[name]]}, "session": session, "limits": limits}
        await apply_class(system, name, spec)
    for name in CLASSES:
        await class_known(system, name)
    return agents


async def _check_sandbox(system: LocalSystem, name: str, conversation: Conversation) -> None:
    """Check that the session has had one sandbox only, with what its class says."""
    (sandbox,) = await sandboxes_of(system, conversation.session_id)
    assert sandbox.metadata["team"] == name
    assert sandbox.raw["network"]["denyOut"] == [DENIED[name]]
    status = (await resource(system, conversation.session_id))["status"]
    assert status["class"]["name"] == name
    assert status["turns"] == 2
    origins = (await effective(system, conversation.session_id))["origins"]
    assert origins["network"] == f"class/{name}@1"


async def _replace_leader(system: LocalSystem, *, kill: bool) -> None:
    """End the leader, wait until the other operator leads, and start the first one again."""
    ended = await leader(system)
    await ended.process.stop(grace_seconds=60, kill=kill)
    await leader(system, other_than=ended)
    await ended.start()
    await ended.wait_ready()


async def _check_clouds(system: LocalSystem, count: int) -> None:
    """Check what both clouds have seen of this many sessions with two turns each."""
    clouds = await system.e2b_admin.ledger()
    assert clouds.peak_concurrent <= SLOTS
    assert len(await system.e2b_admin.sandboxes()) == count, "nothing doubled"
    ledger = await system.anthropic_admin.ledger(calls=False)
    assert ledger.totals["turns_answered"] == ledger.totals["messages"] == 2 * count
    for clean in TOTALS_OF_TROUBLE:
        assert ledger.totals[clean] == 0, clean
    _, stranded = await system.anthropic_admin.work()
    assert stranded == [], "nothing lost"


@pytest.mark.timeout(900)
async def test_sixty_sessions_of_three_classes_are_served_while_operators_die_and_hand_over(
    start_system: StartSystem,
) -> None:
    system = await start_system(
        operators=2,
        operator_settings={
            "max_active_sandboxes": str(SLOTS),
            "sandbox_creation_rate": "100",
            "sandbox_creation_burst": "100",
            "resync_interval_seconds": "2",
            "reclaim_seconds": "20",
            "lease_duration_seconds": "8",
            "lease_renew_seconds": "1",
            "orphan_grace_seconds": "0",
        },
        e2b_settings={"max_concurrent_sandboxes": SLOTS},
    )
    agents = await _agents(system)

    def message(number: int, conversation: Conversation) -> str:
        mark = f"cat /mnt/session/mark 2>/dev/null; echo {conversation.session_id} >> /mnt/session/mark"
        return f"Run: {mark}; sleep 1; echo turn {number} of $TEAM"

    async def answers(number: int, conversations: dict[str, list[Conversation]]) -> None:
        for name, of_class in conversations.items():
            said = await asyncio.gather(*(each.answer(timeout_seconds=400) for each in of_class))
            assert all(f"turn {number} of {name}" in answer for answer in said)

    async with AsyncExitStack() as stack:
        conversations: dict[str, list[Conversation]] = {name: [] for name in CLASSES}
        # The sessions of one class come before those of the next.
        for name, agent in agents.items():
            for _ in range(SESSIONS):
                conversations[name].append(await stack.enter_async_context(begin(system, agent)))
        everyone = [each for of_class in conversations.values() for each in of_class]
        await asyncio.gather(*(each.send(message(1, each)) for each in everyone))

        async def served(count: int) -> bool:
            ledger = await system.anthropic_admin.ledger(calls=False)
            return ledger.totals["turns_answered"] >= count

        async def all_paused() -> bool:
            states = "jsonpath={.items[*].status.sandbox.state}"
            found = (await system.kubectl("get", names.PLURAL, f"--output={states}")).split()
            return Counter(found) == {"Paused": len(everyone)}

        await eventually("some turns are over", lambda: served(10), seconds=200)
        await _replace_leader(system, kill=True)
        await answers(1, conversations)
        # A worker that still waits for the next message would serve it in the same turn.
        await eventually("all sandboxes are paused", all_paused, seconds=120)

        await asyncio.gather(*(each.send(message(2, each)) for each in everyone))
        await eventually("more turns are over", lambda: served(len(everyone) + 10), seconds=200)
        await _replace_leader(system, kill=False)
        await answers(2, conversations)

        await eventually("all sandboxes are paused", all_paused, seconds=120)
        for name, of_class in conversations.items():
            for conversation in of_class:
                await _check_sandbox(system, name, conversation)

    await _check_clouds(system, len(everyone))
    assert await system.delete_sessions(timeout_seconds=200)
    assert {sandbox.state for sandbox in await system.e2b_admin.sandboxes()} == {"killed"}, "nothing leaked"
