"""What a session costs stands in its resource, grows with its turns, and is counted once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.pod import Pod
from prometheus_client.parser import text_string_to_metric_families

from ..support.sessions import QUICK, allow, becomes, begin, resource, sandboxes_of, written_down
from ..support.systems import StartSystem, local_system
from ..support.waiting import eventually

PRICE = "0.01"
"""Dollars for a second of a running sandbox."""
SLACK = 2.0
"""Seconds by which two clocks and the end of a pause may differ."""
ASK = {"tool": "bash", "input": {"command": "echo asked"}, "permission": "ask"}


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    settings = {**QUICK, "sandbox_price_per_second": PRICE, "pause_while_waiting_seconds": "1"}
    async with local_system(control_plane, operator_settings=settings) as running:
        yield running


async def cost(system: LocalSystem, session_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await resource(system, session_id)).get("status", {}).get("cost", {})
    return found


async def turns_recorded(system: LocalSystem, session_id: str, turns: int) -> dict[str, Any]:
    """Wait until so many turns are recorded and the sandbox is paused. Return the cost."""

    async def look() -> bool:
        status = (await resource(system, session_id)).get("status", {})
        return status.get("turns") == turns and await written_down(system, session_id)

    await eventually(f"{turns} turns are recorded", look)
    return await cost(system, session_id)


async def billed(system: LocalSystem, session_id: str) -> float:
    """For how long the session's sandboxes have run, as E2B knows."""
    return sum(each.billed_seconds for each in await sandboxes_of(system, session_id))


async def counted(pod: Pod) -> dict[str, float]:
    """What the operator's counters of cost have, over all classes and agents."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{pod.probe_url}/metrics")).text
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith("_total") and sample.labels.keys() == {"session_class", "agent"}:
                name = sample.name.removeprefix("managed_sessions_").removesuffix("_total")
                sums[name] = sums.get(name, 0) + sample.value
    return sums


async def test_a_turn_has_a_cost_that_grows_with_the_next_one(system: LocalSystem) -> None:
    before = await counted(system.operator)
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: echo one")
        first = await turns_recorded(system, session_id, 1)
        await conversation.say("Run: echo two")
        second = await turns_recorded(system, session_id, 2)
        assert (first["listCost"], second["listCost"], second["currency"]) == ("2", "4", "USD")
        assert 0 <= first["activeSeconds"] <= second["activeSeconds"]
        assert 0 < first["sandboxSeconds"] < second["sandboxSeconds"]
        assert second["sandboxSeconds"] == pytest.approx(await billed(system, session_id), abs=SLACK)
        assert second["vcpuSeconds"] == 2 * second["sandboxSeconds"], "the simulated sandboxes have two"
        assert second["sandboxCost"] == str(second["sandboxSeconds"]), "a cent for each second"
        dollars = (4 + second["sandboxSeconds"]) / 100
        assert second["total"] == f"${dollars:.2f}"
        day = second["days"][0]
        assert [day[each] for each in ("listCost", "activeSeconds", "sandboxSeconds")] == [
            second[each] for each in ("listCost", "activeSeconds", "sandboxSeconds")
        ]
        row = await system.kubectl(
            "get", names.PLURAL, names.resource_name(session_id), "--output=wide", "--no-headers"
        )
        assert second["total"] in row
        explained = await system.kubectl("explain", f"{names.PLURAL}.status.cost.sandboxSeconds")
        assert "have run at E2B" in explained
    after = await counted(system.operator)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown == pytest.approx(
        {
            "list_cost_dollars": 0.04,
            "active_seconds": second["activeSeconds"],
            "sandbox_seconds": second["sandboxSeconds"],
        }
    )


async def test_the_command_adds_up_what_the_resources_say(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.say("Run: echo one")
        recorded = await turns_recorded(system, conversation.session_id, 1)
        [day] = recorded["days"]
        found = await _command(system, "--by=session", f"--since={day['day']}", "--output=json")
        [row] = [each for each in found["rows"] if each["session"] == conversation.session_id]
        assert row == {
            "session": conversation.session_id,
            "currency": "USD",
            "sessions": 1,
            "listCost": "2",
            "sandboxCost": str(recorded["sandboxSeconds"]),
            "activeSeconds": recorded["activeSeconds"],
            "sandboxSeconds": recorded["sandboxSeconds"],
            "total": recorded["total"],
        }


async def _command(system: LocalSystem, *arguments: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "managed_session_cli.main", "cost", f"--namespace={system.namespace}"),
        *arguments,
        env={**os.environ, "KUBECONFIG": str(system.control_plane.kubeconfig)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0
    return json.loads(output)


async def test_a_paused_wait_is_recorded_and_costs_no_running_time(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send(json.dumps({"script": [ASK, {"say": "{result}"}]}))

        async def waits() -> bool:
            status = (await resource(system, session_id)).get("status", {})
            return "waitPausedAt" in status.get("work", {}) and status["sandbox"]["state"] == "Paused"

        await eventually("it waits in a paused sandbox", waits)
        waiting = await cost(system, session_id)
        assert waiting["listCost"] == "1", "the request that asks"
        assert waiting["sandboxSeconds"] == pytest.approx(await billed(system, session_id), abs=SLACK)
        await allow(system, conversation)
        done = await turns_recorded(system, session_id, 1)
        assert done["listCost"] == "2"
        assert done["sandboxSeconds"] == pytest.approx(await billed(system, session_id), abs=SLACK)


async def test_a_lost_sandbox_keeps_what_it_has_cost(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: echo one")
        before = await turns_recorded(system, session_id, 1)
        [sandbox] = await sandboxes_of(system, session_id, "paused")
        await system.e2b_admin.vanish(sandbox.id)
        await conversation.say("Run: echo two")
        after = await turns_recorded(system, session_id, 2)
        assert after["sandboxSeconds"] > before["sandboxSeconds"]
        assert after["sandboxSeconds"] == pytest.approx(await billed(system, session_id), abs=SLACK)


@pytest.mark.parametrize("when", ["between turns", "in a turn"])
async def test_an_operator_that_is_killed_counts_nothing_twice(start_system: StartSystem, when: str) -> None:
    system = await start_system(operator_settings=QUICK)
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.say("Run: echo one")
        first = await turns_recorded(system, session_id, 1)
        if when == "in a turn":
            await conversation.send("Run: sleep 1; echo two")
            await eventually("it runs", lambda: _runs(system, session_id))
        await system.operator.process.stop(kill=True)
        following = await system.start_operator()
        if when == "between turns":
            await conversation.send("Run: sleep 1; echo two")
        second = await turns_recorded(system, session_id, 2)
        assert second["listCost"] == "4"
        assert second["sandboxSeconds"] == pytest.approx(await billed(system, session_id), abs=SLACK)
        grown = await counted(following)
        assert grown["list_cost_dollars"] == pytest.approx(0.02), "only what it has recorded itself"
        assert grown["sandbox_seconds"] == second["sandboxSeconds"] - first["sandboxSeconds"]


async def _runs(system: LocalSystem, session_id: str) -> bool:
    status = (await resource(system, session_id)).get("status", {})
    return "firstHeartbeatAt" in status.get("work", {})


async def test_a_sandbox_that_e2b_paused_meanwhile_is_counted(start_system: StartSystem) -> None:
    system = await start_system(operator_settings=QUICK)
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send("Run: sleep 2; echo one")
        await eventually("it runs", lambda: _runs(system, session_id))
        await system.operator.process.stop(kill=True)
        [sandbox] = await sandboxes_of(system, session_id, "running")
        await system.e2b_admin.expire(sandbox.id)
        await system.start_operator()
        await becomes(system, session_id, "Idle", status="True")
        found = await turns_recorded(system, session_id, 1)
        assert found["sandboxSeconds"] == pytest.approx(await billed(system, session_id), abs=SLACK)
