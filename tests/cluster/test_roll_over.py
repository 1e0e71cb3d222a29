"""Workers that outlast E2B's longest running time, and sandboxes that were paused under a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem

from ..support.held import WAIT, let_go
from ..support.sessions import QUICK, becomes, begin, condition, paused, sandboxes_of, told, warned
from ..support.systems import StartSystem, local_system
from ..support.waiting import eventually

LIFETIME_SECONDS = 12
LONG_CALL = "Run: echo before > kept; sleep 20; cat kept; echo after"


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(
        control_plane,
        operator_settings={**QUICK, "sandbox_max_lifetime_seconds": str(LIFETIME_SECONDS)},
        e2b_settings={"max_lifetime_seconds": LIFETIME_SECONDS},
    ) as running:
        yield running


async def only_sandbox(system: LocalSystem, conversation: Conversation) -> SimulatedSandbox:
    (sandbox,) = await sandboxes_of(system, conversation.session_id)
    return sandbox


async def works(system: LocalSystem, conversation: Conversation) -> None:
    """Wait until the tool call has written its file."""

    async def look() -> bool:
        sandboxes = await sandboxes_of(system, conversation.session_id, "running")
        return any(sandbox.path("/mnt/session/kept").exists() for sandbox in sandboxes)

    await eventually("the tool call runs", look)


async def served_by_one_worker(system: LocalSystem, conversation: Conversation) -> None:
    """The turn is over, its one worker had one lease, and each result came once."""
    await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
    report = await system.anthropic_admin.session(conversation.session_id)
    assert report.counts["leases"] == 1, "the worker that was there went on"
    assert report.counts["results_repeated"] == 0
    assert report.counts["worker_streams_overlapping"] == 0


async def test_tool_call_that_outlasts_the_longest_running_time_goes_on(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.say("Run: mkdir here; cd here; of_shell=through")
        answer = await conversation.say(f"{LONG_CALL}; pwd; echo $of_shell")
        assert "before" in answer
        assert "after\n/mnt/session/here\nthrough" in answer, "and so does the shell"
        await served_by_one_worker(system, conversation)
        assert (await only_sandbox(system, conversation)).resumes >= 1
        ledger = await system.e2b_admin.ledger()
        assert ledger.events.get("timeout_pause", 0) == 0, "no sandbox reached the longest time by itself"
        await told(system, conversation.session_id, "SandboxRolledOver")


async def test_message_that_came_while_its_worker_stopped_is_served_through_a_roll_over(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:
        fault = await system.anthropic_admin.add_fault(
            "work.stop", {"action": "hang", "seconds": 60}, match={"work_id": conversation.session_id}
        )
        assert "first" in await conversation.say("Run: echo first")

        async def stopping() -> bool:
            faults = await system.anthropic_admin.faults()
            return any(each["id"] == fault and each["applied"] for each in faults)

        await eventually("the worker stops its work", stopping)
        await conversation.send(LONG_CALL)
        await system.anthropic_admin.clear_faults()
        assert "after" in await conversation.answer()
        await served_by_one_worker(system, conversation)
        await told(system, conversation.session_id, "ServingLateMessage")
        await told(system, conversation.session_id, "SandboxRolledOver")
        assert (await only_sandbox(system, conversation)).resumes >= 1


@pytest.mark.parametrize("operation", ["pause", "connect", "process_start"])
@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
async def test_operator_killed_in_a_roll_over_finishes_it_when_it_is_back(
    system: LocalSystem, operation: str, after_commit: bool
) -> None:
    async with begin(system) as conversation:
        await conversation.send(LONG_CALL)
        await works(system, conversation)
        sandbox = await only_sandbox(system, conversation)
        await system.e2b_admin.add_fault(
            operation,
            {"status": 504, "after_commit": after_commit, "seconds": 30},
            match={"sandboxID": sandbox.id},
        )

        async def held() -> bool:
            return any(fault["hits"] for fault in await system.e2b_admin.faults())

        await eventually("the call is held", held)
        await system.operator.kill()
        await system.e2b_admin.clear_faults()
        await system.operator.restart()
        assert "after" in await conversation.answer()
        await served_by_one_worker(system, conversation)


async def test_refused_pause_leaves_the_worker_running_and_is_tried_again(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.send(LONG_CALL)
        await works(system, conversation)
        sandbox = await only_sandbox(system, conversation)
        await system.e2b_admin.add_fault("pause", {"status": 503}, match={"sandboxID": sandbox.id})
        assert "after" in await conversation.answer()
        await served_by_one_worker(system, conversation)


async def test_countdown_that_ends_in_a_tool_call_while_the_operator_is_away_costs_no_second_worker(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:
        await conversation.send(LONG_CALL)
        await works(system, conversation)
        await system.operator.kill()
        sandbox = await only_sandbox(system, conversation)
        await system.e2b_admin.expire(sandbox.id)
        await eventually("E2B paused it", lambda: paused(system, conversation.session_id))
        await system.operator.restart()
        assert "after" in await conversation.answer()
        await served_by_one_worker(system, conversation)
        assert (await only_sandbox(system, conversation)).resumes >= 1


async def test_worker_that_was_frozen_past_its_lease_is_replaced(start_system: StartSystem) -> None:
    system = await start_system(
        operator_settings=QUICK, anthropic_settings={"work": {"lease_ttl_seconds": 8}}
    )
    async with begin(system) as conversation:
        await conversation.send(f"Run: echo before > kept; {WAIT}; cat kept; echo after")
        await works(system, conversation)
        await system.operator.kill()
        sandbox = await only_sandbox(system, conversation)
        await system.e2b_admin.expire(sandbox.id)

        async def lapsed() -> bool:
            items, _ = await system.anthropic_admin.work()
            return any(item["state"] == "queued" for item in items)

        await eventually("the lease has lapsed", lapsed)
        await system.operator.restart()

        async def replaced() -> bool:
            return (await system.anthropic_admin.session(conversation.session_id)).counts["leases"] == 2

        await eventually("another worker has the lease", replaced)
        let_go(await only_sandbox(system, conversation))
        assert "after" in await conversation.answer()
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        report = await system.anthropic_admin.session(conversation.session_id)
        assert report.counts["leases"] == 2
        assert report.counts["results_repeated"] == 0
        assert len(await sandboxes_of(system, conversation.session_id)) == 1


async def test_pause_that_went_back_to_an_earlier_state_is_said(start_system: StartSystem) -> None:
    system = await start_system(operator_settings=QUICK)
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: echo one > kept")
        # Written down: no pause will be sent any more that would meet the fault.
        await becomes(system, session_id, "Idle", status="True")
        assert not await condition(system, session_id, "WorkspaceLost")
        await system.e2b_admin.add_fault("pause", "pause_rolled_back")
        await conversation.say("Run: echo two > kept")

        async def said() -> dict[str, object] | None:
            found = await condition(system, session_id, "WorkspaceLost")
            return found if found.get("status") == "True" else None

        lost = await eventually("the loss is said", said)
        assert lost["reason"] == "WorkspaceRolledBack"
        await warned(system, session_id, "WorkspaceRolledBack")
        assert "three" in await conversation.say("Run: echo three")
        assert len(await sandboxes_of(system, session_id)) == 1
