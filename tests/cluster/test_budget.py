"""A session whose budget is used up says so, and goes on by itself when it is raised or removed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, becomes, begin, paused, resource, resyncs_pass
from ..support.systems import local_system
from ..support.waiting import eventually

WRITE, READ = (
    {"tool": "bash", "input": {"command": command}, "expect_error": False}
    for command in ("echo kept > file", "cat file")
)
TURN = json.dumps({"script": [WRITE, READ, {"say": "{result}"}]})


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    settings = {**QUICK, "end_checks_per_minute": "120", "end_check_seconds": "2"}
    async with local_system(control_plane, operator_settings=settings) as running:
        yield running


def limit(cents: int) -> Any:
    return {"type": "limit", "max_list_cost": {"amount": str(cents), "currency": "USD"}}


@asynccontextmanager
async def begin_with_budget(system: LocalSystem, cents: int) -> AsyncIterator[Conversation]:
    session = await system.user.beta.sessions.create(
        agent=system.agent_id, environment_id=system.clouds.environment_id, budget=limit(cents)
    )
    async with Conversation.join(system.user, session.id) as conversation:
        yield conversation


async def stopped(system: LocalSystem, session_id: str) -> dict[str, Any]:
    """Wait until the session has reached its budget and rests. Return its status."""
    await becomes(system, session_id, "BudgetReached")
    await eventually("the sandbox is paused", lambda: paused(system, session_id))
    status: dict[str, Any] = (await resource(system, session_id))["status"]
    return status


@pytest.mark.parametrize("change", ["raised", "removed"])
async def test_a_session_at_its_budget_rests_until_it_is_raised_or_removed(
    system: LocalSystem, change: str
) -> None:
    async with begin_with_budget(system, 2) as conversation:
        session_id = conversation.session_id
        await conversation.send(TURN)
        status = await stopped(system, session_id)
        said = next(each for each in status["conditions"] if each["type"] == "Ready")
        assert "budget of $0.02 is used up: it has cost $0.02. Raise or remove it" in said["message"]
        assert (status["phase"], status["work"]["stopReason"]) == ("Idle", "budget_reached")
        assert (status["cost"]["budget"], status["cost"]["listCost"]) == ("2", "2")
        await resyncs_pass(system, 3)
        at_rest = await resource(system, session_id)
        await resyncs_pass(system, 2)
        again = await resource(system, session_id)
        assert again["metadata"]["resourceVersion"] == at_rest["metadata"]["resourceVersion"]
        new = limit(3) if change == "raised" else None
        await system.user.beta.sessions.update(session_id, budget=new)
        assert await conversation.answer() == "kept"
        await becomes(system, session_id, "Idle", status="True")
        cost = (await resource(system, session_id))["status"]["cost"]
        assert (cost["listCost"], cost.get("budget")) == ("3", "3" if new else None)
        # E2B's prices, of sandboxes with two vCPUs and 1 GiB.
        assert float(cost["sandboxCost"]) == pytest.approx(cost["sandboxSeconds"] * 0.00325, abs=0.0001)


async def test_a_raised_budget_is_noticed_without_an_event_and_without_work(system: LocalSystem) -> None:
    await system.anthropic_admin.change_settings(agent={"raised_budget_queues_work": False})
    try:
        async with begin_with_budget(system, 2) as conversation:
            session_id = conversation.session_id
            await conversation.send(TURN)
            await stopped(system, session_id)

            async def told_by_webhook() -> bool:
                event = (await resource(system, session_id))["status"]["lastEvent"]
                return bool(event["type"] == "session.budget_reached")

            await eventually("the webhook has recorded it", told_by_webhook)
            await system.anthropic_admin.hold_webhooks()
            await system.user.beta.sessions.update(session_id, budget=limit(9))
            assert await conversation.answer() == "kept"
            await becomes(system, session_id, "Idle", status="True")
            cost = (await resource(system, session_id))["status"]["cost"]
            assert (cost["listCost"], cost["budget"]) == ("3", "9")
    finally:
        await system.anthropic_admin.release_webhooks()
        await system.anthropic_admin.change_settings(agent={"raised_budget_queues_work": True})


async def test_a_stop_without_a_known_budget_is_reported_too(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send(json.dumps({"script": [WRITE, {"stop": "budget_reached"}]}))
        status = await stopped(system, session_id)
        said = next(each for each in status["conditions"] if each["type"] == "Ready")
        assert "The session's budget is used up. Raise or remove it" in said["message"]
        assert await conversation.say("Run: cat file") == "kept"
        await becomes(system, session_id, "Idle", status="True")
