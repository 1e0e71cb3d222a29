"""Deleting a resource: it completes or says what stops it, and there is a way to force it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, becomes, begin, paused, resource, sandboxes_of
from ..support.systems import local_system
from ..support.waiting import eventually

E2B_KEY = "e2b-api-key"


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings=QUICK) as running:
        yield running


async def delete(system: LocalSystem, session_id: str) -> None:
    await system.kubectl("delete", names.PLURAL, names.resource_name(session_id), "--wait=false")


async def killed(system: LocalSystem, session_id: str) -> bool:
    return {sandbox.state for sandbox in await sandboxes_of(system, session_id)} == {"killed"}


async def gone(system: LocalSystem, session_id: str) -> bool:
    return await killed(system, session_id) and not await resource(system, session_id)


async def works(system: LocalSystem, session_id: str) -> bool:
    return (await system.anthropic_admin.session(session_id)).counts["leases"] > 0


async def test_live_session_is_stopped_killed_and_leaves_nothing(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send("Run: sleep 30")
        await eventually("the worker works", lambda: works(system, session_id))
        await delete(system, session_id)
        await eventually("sandbox and resource are gone", lambda: gone(system, session_id))
        report = await system.anthropic_admin.session(session_id)
        assert report.work is not None
        assert report.work["state"] == "stopped"
        secrets = await system.kubectl("get", "secrets", "--output=name")
        assert names.resource_name(session_id) not in secrets


async def _revoke_e2b_key(system: LocalSystem) -> Callable[[], Awaitable[None]]:
    good = (system.operator.credentials / E2B_KEY).read_text().strip()
    system.operator.set_credential(E2B_KEY, "revoked-and-long-enough-to-be-seen")

    async def give_back() -> None:
        system.operator.set_credential(E2B_KEY, good)

    return give_back


async def _remove_e2b_key(system: LocalSystem) -> Callable[[], Awaitable[None]]:
    give_back = await _revoke_e2b_key(system)
    system.operator.set_credential(E2B_KEY, None)
    return give_back


async def _break_e2b(system: LocalSystem) -> Callable[[], Awaitable[None]]:
    await system.e2b_admin.add_fault("kill", {"status": 503}, times=10_000)
    return system.e2b_admin.clear_faults


@pytest.mark.parametrize("trouble", [_revoke_e2b_key, _remove_e2b_key, _break_e2b])
async def test_sandbox_that_cannot_be_killed_keeps_its_resource_which_says_why(
    system: LocalSystem, trouble: Callable[[LocalSystem], Awaitable[Callable[[], Awaitable[None]]]]
) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: true")
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        end = await trouble(system)
        try:
            await delete(system, session_id)
            condition = await becomes(system, session_id, "CleanupBlocked")
            assert "E2B" in condition["message"] or "e2b" in condition["message"]
            assert (await resource(system, session_id))["status"]["phase"] == "Terminating"
        finally:
            await end()
        await eventually("sandbox and resource are gone", lambda: gone(system, session_id))


async def test_deletion_does_not_wait_for_anthropic_for_ever(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send("Run: sleep 30")
        await eventually("the worker works", lambda: works(system, session_id))
        await system.anthropic_admin.add_fault("work.stop", {"status": 503}, times=None)
        try:
            await delete(system, session_id)
            await eventually("the sandbox is killed first", lambda: killed(system, session_id))
            await eventually("the resource is gone", lambda: gone(system, session_id))
        finally:
            await system.anthropic_admin.clear_faults()


async def test_sandbox_of_a_resource_whose_finalizer_was_removed_by_hand_is_killed(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: true")
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        end = await _break_e2b(system)
        try:
            await delete(system, session_id)
            await becomes(system, session_id, "CleanupBlocked")
            await system.kubectl(
                "patch", names.PLURAL, names.resource_name(session_id), "--type=merge",
                "--patch", json.dumps({"metadata": {"finalizers": None}}),
            )  # fmt: skip
            assert not await resource(system, session_id)
            assert not await killed(system, session_id)
        finally:
            await end()
        await eventually("the resync kills it", lambda: killed(system, session_id))
