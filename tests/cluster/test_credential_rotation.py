"""Keys are replaced at their cloud and in the Secret, in any order, and nobody restarts anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import httpx
import pytest
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.clouds import SIMULATED_E2B_KEY
from managed_session_devkit.system.local_system import LocalSystem

from ..support.held import WAIT, let_go
from ..support.sessions import QUICK, becomes, begin, paused, sandboxes_of
from ..support.systems import local_system
from ..support.waiting import eventually

ENVIRONMENT_KEY = "anthropic-environment-key"
E2B_KEY = "e2b-api-key"
NEW_ENVIRONMENT_KEY = "sk-ant-oat01-the-new-key-of-the-environment"
NEWER_ENVIRONMENT_KEY = "sk-ant-oat01-the-newer-key-of-the-environment"
NEW_E2B_KEY = "e2b_" + "7" * 40


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings=QUICK) as running:
        yield running


def held(system: LocalSystem, credential: str) -> str:
    return (system.operator.credentials / credential).read_text().strip()


async def line_in_use(system: LocalSystem, credential: str) -> float | None:
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        metrics = (await client.get(f"{system.operator.probe_url}/metrics")).text
    start = f'managed_sessions_credential_line{{credential="{credential}"}} '
    return next((float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(start)), None)


async def comes_into_use(system: LocalSystem, credential: str, line: int) -> None:
    async def look() -> bool:
        return await line_in_use(system, credential) == line

    await eventually(f"line {line} of {credential} is in use", look)


async def nothing_was_lost(system: LocalSystem, *session_ids: str) -> None:
    for session_id in session_ids:
        await eventually("the sandbox is paused", partial(paused, system, session_id))
        assert len(await sandboxes_of(system, session_id)) == 1
    totals = (await system.anthropic_admin.ledger(calls=False)).totals
    assert totals["turns_answered"] == totals["messages"]
    for clean in ("leases_lapsed", "lease_conflicts", "results_repeated", "worker_streams_overlapping"):
        assert totals[clean] == 0, clean
    assert (await system.anthropic_admin.work())[1] == []
    log = system.operator.log.read_text()
    for secret in (NEW_ENVIRONMENT_KEY, NEWER_ENVIRONMENT_KEY, NEW_E2B_KEY, SIMULATED_E2B_KEY):
        assert secret not in log


async def test_environment_key_is_rotated_under_running_turns(system: LocalSystem) -> None:
    process, old = system.operator.process.pid, held(system, ENVIRONMENT_KEY)
    # Written down before Anthropic knows it: the second line serves.
    system.operator.set_credential(ENVIRONMENT_KEY, f"{NEW_ENVIRONMENT_KEY}\n{old}")
    async with begin(system) as first, begin(system) as second:
        assert "one" in await first.say("Run: echo one")
        await comes_into_use(system, ENVIRONMENT_KEY, 2)

        turn = asyncio.create_task(second.say(f"Run: touch begun; {WAIT}; echo two"))

        async def works() -> bool:
            running = await sandboxes_of(system, second.session_id, "running")
            return bool(running) and running[0].path("/mnt/session/begun").exists()

        await eventually("a turn is under way that the old key has claimed", works)
        await system.anthropic_admin.add_environment(system.clouds.environment_id, NEW_ENVIRONMENT_KEY)
        await system.anthropic_admin.revoke(old)

        await comes_into_use(system, ENVIRONMENT_KEY, 1)
        assert "three" in await first.say("Run: echo three"), "offered, claimed and answered with the new key"
        (sandbox,) = await sandboxes_of(system, second.session_id)
        let_go(sandbox)
        assert "two" in await turn, "the old key's turn goes on"

        system.operator.set_credential(ENVIRONMENT_KEY, NEW_ENVIRONMENT_KEY)
        assert "four" in await second.say("Run: echo four")
        await nothing_was_lost(system, first.session_id, second.session_id)
    assert system.operator.process.pid == process


async def test_key_is_swapped_during_a_poll_whose_answer_brings_work(system: LocalSystem) -> None:
    old = held(system, ENVIRONMENT_KEY)
    await system.anthropic_admin.add_environment(system.clouds.environment_id, NEWER_ENVIRONMENT_KEY)
    slow = await system.anthropic_admin.add_fault("work.poll", {"action": "hang", "seconds": 2})

    async def polling() -> bool:
        faults = await system.anthropic_admin.faults()
        return any(fault["id"] == slow and fault["applied"] for fault in faults)

    await eventually("a poll is under way", polling)
    system.operator.set_credential(ENVIRONMENT_KEY, NEWER_ENVIRONMENT_KEY)
    async with begin(system) as conversation:
        await conversation.send("Run: echo swapped")
        await system.anthropic_admin.revoke(old)
        assert "swapped" in await conversation.answer(), "polled with the one, acknowledged with the other"
        await nothing_was_lost(system, conversation.session_id)


async def test_e2b_key_is_rotated_with_both_lines_there(system: LocalSystem) -> None:
    system.operator.set_credential(E2B_KEY, f"{NEW_E2B_KEY}\n{SIMULATED_E2B_KEY}")
    async with begin(system) as conversation:
        assert "one" in await conversation.say("Run: echo one | tee kept")
        await comes_into_use(system, E2B_KEY, 2)
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        await system.e2b_admin.change_settings(api_keys=[NEW_E2B_KEY])
        assert "one" in await conversation.say("Run: cat kept")
        await comes_into_use(system, E2B_KEY, 1)
        system.operator.set_credential(E2B_KEY, NEW_E2B_KEY)
        assert "one" in await conversation.say("Run: cat kept")
        await nothing_was_lost(system, conversation.session_id)


async def test_credential_that_is_taken_away_and_put_back_costs_no_message(system: LocalSystem) -> None:
    good = held(system, ENVIRONMENT_KEY)
    async with begin(system) as conversation:
        assert "one" in await conversation.say("Run: echo one")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        system.operator.set_credential(ENVIRONMENT_KEY, None)
        await conversation.send("Run: echo two")
        condition = await becomes(system, conversation.session_id, "CredentialMissing")
        assert ENVIRONMENT_KEY in condition["message"]
        system.operator.set_credential(ENVIRONMENT_KEY, good)
        assert "two" in await conversation.answer()
        await nothing_was_lost(system, conversation.session_id)
