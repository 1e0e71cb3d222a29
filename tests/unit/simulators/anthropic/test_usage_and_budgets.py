"""What a session costs, and the budget at which it stops, through the SDK's types."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from anthropic.types.beta.beta_managed_agents_session_usage_event import BetaManagedAgentsSessionUsageEvent
from managed_session_devkit.simulators.anthropic.client import AnthropicSimulator

from .conftest import Api, until

ASK = json.dumps({"script": [{"sleep_ms": 50}, {"say": "one"}, {"say": "two"}, {"say": "three"}]})


def budget(cents: str) -> Any:
    return {"type": "limit", "max_list_cost": {"amount": cents, "currency": "USD"}}


async def idle(api: Api, session_id: str, reason: str) -> list[Any]:
    """Wait until the session is idle for this reason. Return its events."""

    async def stopped() -> list[Any]:
        events = await api.events(session_id)
        last = events[-1]
        return events if last.type == "session.status_idle" and last.stop_reason.type == reason else []

    return await until(stopped)


async def test_usage_grows_with_each_turn_and_is_told_before_each_idle(api: Api) -> None:
    session = await api.create(ASK)
    told = (await idle(api, session.id, "end_turn"))[-2]
    assert isinstance(told, BetaManagedAgentsSessionUsageEvent)
    assert told.usage.list_cost is not None
    assert (told.usage.list_cost.amount, told.usage.list_cost.currency, told.budget) == ("3", "USD", None)
    await api.say(session.id, "again")
    await until(lambda: _costs(api, session.id, "4"))
    seen = await api.admin.beta.sessions.retrieve(session.id)
    assert seen.usage.active_seconds is not None
    assert 0 < (told.usage.active_seconds or 0) < seen.usage.active_seconds == seen.stats.active_seconds


async def _costs(api: Api, session_id: str, cents: str) -> bool:
    usage = (await api.admin.beta.sessions.retrieve(session_id)).usage
    return usage.list_cost is not None and usage.list_cost.amount == cents


async def test_a_session_stops_before_the_request_that_its_budget_does_not_allow(
    api: Api, simulator: AnthropicSimulator
) -> None:
    session = await api.create(ASK, budget=budget("2"))
    events = await idle(api, session.id, "budget_reached")
    assert [each.content[0].text for each in events if each.type == "agent.message"] == ["one", "two"]
    with pytest.raises(anthropic.BadRequestError, match="budget_not_raised"):
        await api.admin.beta.sessions.update(session.id, budget=budget("2"))
    await api.admin.beta.sessions.update(session.id, budget=budget("3"))
    events = await idle(api, session.id, "end_turn")
    assert [each.type for each in events][-4:] == [
        "session.status_running",
        "agent.message",
        "session.usage",
        "session.status_idle",
    ]
    report = await simulator.session(session.id)
    assert "session.budget_reached" in [entry["kind"] for entry in report.timeline]


async def test_a_removed_budget_never_stops_a_session_and_cannot_come_back(api: Api) -> None:
    session = await api.create(ASK, budget=budget("1"))
    await idle(api, session.id, "budget_reached")
    await api.admin.beta.sessions.update(session.id, budget=None)
    await idle(api, session.id, "end_turn")
    with pytest.raises(anthropic.BadRequestError, match="budget_create_only"):
        await api.admin.beta.sessions.update(session.id, budget=budget("9"))


async def test_an_interrupted_session_leaves_its_turn_at_the_budget(api: Api) -> None:
    session = await api.create(ASK, budget=budget("1"))
    await idle(api, session.id, "budget_reached")
    await api.interrupt(session.id)
    await idle(api, session.id, "end_turn")
    await api.say(session.id, "more")
    await idle(api, session.id, "budget_reached")


@pytest.mark.parametrize("cents", ["0", "02", "1.5", ""])
async def test_an_odd_budget_is_refused(api: Api, cents: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="whole number of cents"):
        await api.create(budget=budget(cents))
