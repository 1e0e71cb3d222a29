"""Two installations on one environment: not supported, and noticed by the one that looks."""

from __future__ import annotations

import json
from typing import Any

import httpx
from anthropic import AsyncAnthropic
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK
from ..support.systems import StartSystem
from ..support.waiting import eventually


async def gauge(system: LocalSystem) -> float:
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        text = (await client.get(f"{system.operator.probe_url}/metrics")).text
    return next(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("managed_sessions_environment_shared ")
    )


async def lease_events(system: LocalSystem) -> list[dict[str, Any]]:
    found = await system.control_plane.kubectl(
        f"--namespace={system.system_namespace}", "get", "events", "--output=json"
    )
    return [event for event in json.loads(found)["items"] if event["involvedObject"]["kind"] == "Lease"]


async def test_another_poller_is_warned_about_and_the_warning_ends_with_it(start_system: StartSystem) -> None:
    system = await start_system(operator_settings={**QUICK, "end_checks_per_minute": "600"})
    assert await gauge(system) == 0
    url, key = system.clouds.environment["ANTHROPIC_BASE_URL"], system.clouds.credentials

    async with AsyncAnthropic(base_url=url, auth_token=key["anthropic-environment-key"]) as other:

        async def noticed() -> bool:
            await other.beta.environments.work.poll(
                system.clouds.environment_id, anthropic_worker_id="another-installation"
            )
            return await gauge(system) == 1

        await eventually("the other one is noticed", noticed)

    async def warned() -> bool:
        return any(
            (event["type"], event["reason"]) == ("Warning", "EnvironmentShared")
            for event in await lease_events(system)
        )

    await eventually("an Event about the Lease says it", warned)

    async def logged() -> bool:
        return "another installation or worker serves the same environment" in system.operator.log.read_text()

    await eventually("the log says it", logged)

    async def over() -> bool:
        return await gauge(system) == 0

    await eventually("the warning is over (a worker counts for 30 s)", over, seconds=60)


async def test_change_of_leader_looks_like_one_installation(start_system: StartSystem) -> None:
    system = await start_system(operators=2, operator_settings={**QUICK, "end_checks_per_minute": "600"})
    await system.operators[0].restart(kill=True)
    await system.operators[1].restart(kill=True)

    async def counted() -> bool:
        ledger = await system.anthropic_admin.ledger(calls=False)
        return sum(ledger.operations.get("work.stats", {}).values()) >= 5

    await system.anthropic_admin.clear_ledger()
    await eventually("the pollers were counted", counted)
    assert await gauge(system) == 0
    calls = (await system.anthropic_admin.ledger()).calls
    assert len({call["worker_id"] for call in calls if call["operation"] == "work.poll"}) == 1
