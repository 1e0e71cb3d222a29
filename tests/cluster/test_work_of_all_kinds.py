"""What the queue may offer besides the plain case: health checks, skills, work without a token."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, becomes, begin, sandboxes_of
from ..support.systems import local_system
from ..support.waiting import eventually


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings=QUICK) as running:
        yield running


async def test_health_check_is_answered_without_a_sandbox(system: LocalSystem) -> None:
    before = len(await system.e2b_admin.sandboxes())
    work_id = await system.anthropic_admin.add_healthcheck()

    async def stopped() -> bool:
        items, _ = await system.anthropic_admin.work()
        return any(item["id"] == work_id and item["state"] == "stopped" for item in items)

    await eventually("the health check is acknowledged and stopped", stopped)
    assert len(await system.e2b_admin.sandboxes()) == before


async def test_skills_of_the_agent_are_in_the_sandbox_before_its_first_tool_call(system: LocalSystem) -> None:
    skill = await system.anthropic_admin.add_skill(
        "greeting", {"SKILL.md": "# How to greet", "words/hello.txt": "good day"}
    )
    agent = await system.anthropic_admin.add_agent(
        skills=[{"type": "custom", "skill_id": skill["skill_id"], "version": "latest"}]
    )
    async with Conversation.begin(
        system.user, agent_id=agent, environment_id=system.clouds.environment_id
    ) as conversation:
        answer = await conversation.say("Run: cat /mnt/session/skills/greeting/words/hello.txt")
        assert "good day" in answer
        again = await conversation.say(
            "Run: echo kindly >> skills/greeting/SKILL.md; cat skills/greeting/SKILL.md"
        )
        assert "How to greet" in again
        assert "kindly" in again


async def test_work_without_a_session_token_is_not_served_with_the_environment_key(
    system: LocalSystem,
) -> None:
    await system.anthropic_admin.change_settings(work={"issue_secrets": False})
    try:
        async with begin(system) as conversation:
            await conversation.send("Run: true")
            condition = await becomes(system, conversation.session_id, "NoSessionToken")
            assert "environment key" in condition["message"]

            async def none_runs() -> bool:
                return not await sandboxes_of(system, conversation.session_id, "running")

            await eventually("its sandbox is paused", none_runs)
    finally:
        await system.anthropic_admin.change_settings(work={"issue_secrets": True})


async def test_environment_key_serves_work_without_a_token_where_that_was_asked_for(
    system: LocalSystem,
) -> None:
    await system.anthropic_admin.change_settings(work={"issue_secrets": False})
    await system.operator.restart(allow_environment_key_in_sandbox="true")
    try:
        async with begin(system) as conversation:
            assert "served" in await conversation.say("Run: echo served")
    finally:
        await system.anthropic_admin.change_settings(work={"issue_secrets": True})
        await system.operator.restart(allow_environment_key_in_sandbox="false")
