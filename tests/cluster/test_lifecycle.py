"""How a person's wishes and a session's end reach its sandbox: suspend, time to live, loss, lost webhooks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, becomes, begin, paused, resource, sandboxes_of, told
from ..support.systems import StartSystem, local_system
from ..support.waiting import eventually

PAUSE_SECONDS = 1.0


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(
        control_plane, operator_settings=QUICK, anthropic_settings={"work": {"lease_ttl_seconds": 8}}
    ) as running:
        yield running


async def change(system: LocalSystem, session_id: str, **lifecycle: Any) -> None:
    """Change `spec.lifecycle` as a person would."""
    await system.kubectl(
        "patch", names.PLURAL, names.resource_name(session_id), "--type=merge",
        "--patch", json.dumps({"spec": {"lifecycle": lifecycle}}),
    )  # fmt: skip


async def gone(system: LocalSystem, session_id: str) -> bool:
    states = {sandbox.state for sandbox in await sandboxes_of(system, session_id)}
    return states == {"killed"} and not await resource(system, session_id)


async def file_written(system: LocalSystem, session_id: str, path: str) -> bool:
    sandboxes = await sandboxes_of(system, session_id, "running")
    return any(sandbox.path(path).exists() for sandbox in sandboxes)


async def test_suspended_in_a_tool_call_the_session_is_paused_and_served_when_it_is_resumed(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        # The first call does not end by itself.
        await conversation.send(
            "Run: echo >> /mnt/session/calls; test $(wc -l < /mnt/session/calls) -gt 1 || sleep 100; "
            "wc -l < /mnt/session/calls"
        )
        await eventually("the call runs", lambda: file_written(system, session_id, "/mnt/session/calls"))
        await change(system, session_id, suspend=True)
        await becomes(system, session_id, "Suspended")
        assert await paused(system, session_id)
        (sandbox,) = await sandboxes_of(system, session_id)
        assert not any("sleep" in process.command for process in sandbox.processes), "stopped, not frozen"

        async def offered_again() -> bool:
            report = await system.anthropic_admin.session(session_id)
            return report.work is not None and report.work["state"] == "queued"

        await eventually("its work is in the queue again", offered_again)
        acknowledged = (await system.anthropic_admin.ledger()).operations.get("work.ack", {})
        assert await paused(system, session_id)

        await change(system, session_id, suspend=False)
        assert "2" in await conversation.answer(), "the call was made again, in the same files"
        assert (await system.anthropic_admin.ledger()).operations["work.ack"] != acknowledged
        report = await system.anthropic_admin.session(session_id)
        assert report.counts["leases"] == 2
        assert report.counts["results_repeated"] == 0


async def test_resumed_before_the_lease_has_lapsed_the_session_says_what_it_waits_for(
    start_system: StartSystem,
) -> None:
    system = await start_system(
        operator_settings=QUICK, anthropic_settings={"work": {"lease_ttl_seconds": 20}}
    )
    async with begin(system) as conversation:
        session_id = conversation.session_id
        # The first call does not end by itself.
        await conversation.send(
            "Run: test -e /mnt/session/begun || { echo > /mnt/session/begun; sleep 100; }; echo served"
        )
        await eventually("the call runs", lambda: file_written(system, session_id, "/mnt/session/begun"))
        await change(system, session_id, suspend=True)
        await becomes(system, session_id, "Suspended")
        await change(system, session_id, suspend=False)
        await becomes(system, session_id, "AwaitingLease")
        assert "served" in await conversation.answer()


async def test_idle_session_is_deleted_after_its_time_to_live(start_system: StartSystem) -> None:
    system = await start_system(operator_settings={**QUICK, "idle_ttl_seconds": "2"})
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: true")
        await eventually("sandbox and resource are gone", lambda: gone(system, session_id))
        assert (await system.user.beta.sessions.retrieve(session_id)).status == "idle", "the session lives on"


async def test_lost_sandbox_is_not_replaced_where_the_policy_says_fail(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: echo kept > /mnt/session/kept")
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        await change(system, session_id, onSandboxLost="Fail")
        (sandbox,) = await sandboxes_of(system, session_id)
        await system.e2b_admin.vanish(sandbox.id)
        await becomes(system, session_id, "SandboxVanished")

        async def failed() -> bool:
            return bool((await resource(system, session_id))["status"]["phase"] == "Failed")

        await eventually("the phase follows the condition", failed)
        await conversation.send("Run: cat /mnt/session/kept || echo empty")

        async def offered() -> bool:
            report = await system.anthropic_admin.session(session_id)
            return report.work is not None and report.counts["work_offered"] >= 2

        await eventually("its work is offered and left in the queue", offered)
        assert len(await sandboxes_of(system, session_id)) == 1
        await change(system, session_id, onSandboxLost="Recreate")
        assert "empty" in await conversation.answer()


@pytest.mark.parametrize("how", ["terminate", "archive", "delete"])
async def test_end_is_noticed_without_its_webhook(start_system: StartSystem, how: str) -> None:
    system = await start_system(
        operator_settings={**QUICK, "end_checks_per_minute": "600", "end_check_seconds": "1"},
        register_webhook=False,
    )
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: true")
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        if how == "delete":
            await system.user.beta.sessions.delete(session_id)
            await eventually("sandbox and resource are gone", lambda: gone(system, session_id))
            return
        if how == "archive":
            await system.user.beta.sessions.archive(session_id)
        else:
            await system.anthropic_admin.terminate_session(session_id)
        await becomes(system, session_id, "SessionEnded")
        await told(system, session_id, "SessionEnded")
        await change(system, session_id, ttlSecondsAfterEnd=0)
        await eventually("sandbox and resource are gone", lambda: gone(system, session_id))


async def test_pause_is_sent_within_a_second_of_the_workers_end(system: LocalSystem) -> None:
    delays = list[float]()
    async with begin(system) as conversation:
        # A busy machine may be slow now and then.
        while sum(each < PAUSE_SECONDS for each in delays) < 2:
            assert len(delays) < 8, f"seconds from the item's stop to the pause: {delays}"
            await system.e2b_admin.clear_ledger()
            await conversation.say("Run: true")
            await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
            stopped = (await system.anthropic_admin.session(conversation.session_id)).work
            assert stopped is not None
            ended = datetime.fromisoformat(stopped["stopped_at"])
            call, *_ = (await system.e2b_admin.ledger(operation="pause")).calls
            delays.append((datetime.fromisoformat(call["at"]) - ended).total_seconds())
