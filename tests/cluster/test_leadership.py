"""Two operators: one leads, the other takes over."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from managed_session_local.control_plane import ControlPlane
from managed_session_local.system import LocalSystem

from .sessions import QUICK, begin, paused, sandboxes_of
from .systems import local_system
from .waiting import eventually


@pytest.fixture
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operators=2, operator_settings=QUICK) as running:
        yield running


async def lease(system: LocalSystem) -> dict[str, Any]:
    found = await system.control_plane.kubectl(
        f"--namespace={system.system_namespace}", "get", "lease", "managed-session-operator", "--output=json"
    )
    spec: dict[str, Any] = json.loads(found)["spec"]
    return spec


async def leader_index(system: LocalSystem) -> int:
    """Which of the operators holds the Lease; its identity ends with its process ID and a random part."""
    holder = (await lease(system)).get("holderIdentity") or ""
    processes = [str(pod.process.pid) for pod in system.operators]
    found = [number for number, pid in enumerate(processes) if f"-{pid}-" in holder]
    return found[0] if found else -1


async def has_leader(system: LocalSystem, other_than: int = -1) -> bool:
    return await leader_index(system) not in (-1, other_than)


@pytest.mark.parametrize("how", ["stopped", "killed", "frozen"])
async def test_other_operator_takes_over_from_a_leader_that_was(system: LocalSystem, how: str) -> None:
    await eventually("one operator leads", lambda: has_leader(system))
    leader = await leader_index(system)
    epoch = (await lease(system))["leaseTransitions"]
    async with begin(system) as conversation:
        assert "one" in await conversation.say("Run: echo one | tee kept")
        if how == "frozen":
            system.operators[leader].process.freeze()
        else:
            await system.operators[leader].process.stop(kill=how == "killed")
        await eventually("the other one leads", lambda: has_leader(system, other_than=leader))
        assert (await lease(system))["leaseTransitions"] > epoch, "the epoch grows"
        assert "one" in await conversation.say("Run: cat kept")
        if how == "frozen":
            system.operators[leader].process.thaw()
            assert "one" in await conversation.say("Run: cat kept"), "the thawed one does no harm"
            assert await leader_index(system) != leader
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        assert len(await sandboxes_of(system, conversation.session_id)) == 1
        report = await system.anthropic_admin.session(conversation.session_id)
        assert report.counts["worker_streams_overlapping"] == 0
        assert report.counts["results_repeated"] == 0
