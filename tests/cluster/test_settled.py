"""A system at rest: no writes, and no calls but the queue's long poll and the resync's two lists."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, becomes, begin, paused, resource, resyncs_pass, told
from ..support.systems import local_system
from ..support.waiting import eventually


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings=QUICK) as running:
        yield running


async def listings(system: LocalSystem) -> int:
    return (await system.e2b_admin.ledger()).operations.get("list", 0)


@pytest.mark.parametrize("restarted", [False, True], ids=["running on", "restarted"])
async def test_settled_session_costs_no_write_and_no_call(system: LocalSystem, restarted: bool) -> None:
    async with begin(system) as conversation:
        await conversation.say("Run: true")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        await becomes(system, conversation.session_id, "Idle", status="True")
        version = (await resource(system, conversation.session_id))["metadata"]["resourceVersion"]
        if restarted:
            await system.operator.restart(kill=True)
        await system.e2b_admin.clear_ledger()
        await system.anthropic_admin.clear_ledger()

        async def swept_and_polled() -> bool:
            # A poll is in the ledger when it is over.
            polled = "work.poll" in (await system.anthropic_admin.ledger()).operations
            return polled and await listings(system) >= 3

        await eventually("three resyncs and a poll have passed", swept_and_polled)
        operations = (await system.anthropic_admin.ledger()).operations
        calls = (await system.e2b_admin.ledger()).operations
        assert set(calls) == {"list"}
        # The slow check counts the queue's pollers.
        assert set(operations) - {"work.stats"} == {"work.poll", "work.list"}
        # One page is one call a resync. The work is listed before the sandboxes, and its ledger read before.
        assert sum(operations["work.list"].values()) <= calls["list"] + 2
        assert (await resource(system, conversation.session_id))["metadata"]["resourceVersion"] == version


async def test_a_turn_in_a_paused_sandbox_costs_four_writes_of_the_operator(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.say("Run: true")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        await becomes(system, conversation.session_id, "Idle", status="True")
        # The Event follows the count of the write.
        await told(system, conversation.session_id, "WorkerFinished")
        before = await status_writes(system)
        await system.e2b_admin.clear_ledger()
        await conversation.say("Run: true")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        await becomes(system, conversation.session_id, "Idle", status="True")
        assert await status_writes(system) - before <= 4
        operations = (await system.e2b_admin.ledger()).operations
        operations.pop("list", None)
        assert operations == {"connect": 1, "files_write": 1, "process_start": 1, "pause": 1, "get": 1}


async def status_writes(system: LocalSystem) -> float:
    """The operator's own count."""
    import httpx

    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        text = (await client.get(f"{system.operator.probe_url}/metrics")).text
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("managed_sessions_status_writes_total")
    )


async def test_a_resource_of_no_session_is_asked_about_once(system: LocalSystem) -> None:
    session_id = "sesn_01OfNobody"
    made_by_hand = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": names.resource_name(session_id)},
        "spec": {"sessionID": session_id, "environmentID": system.clouds.environment_id},
    }
    await system.kubectl("create", "--filename=-", input=json.dumps(made_by_hand))
    await becomes(system, session_id, "SessionEnded")
    await system.anthropic_admin.clear_ledger()
    await resyncs_pass(system, 3)
    assert "sessions.get" not in (await system.anthropic_admin.ledger()).operations
    await system.kubectl("delete", names.PLURAL, names.resource_name(session_id))
