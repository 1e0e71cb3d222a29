"""Webhook events that no longer arrive are noticed, by a fail-over too, until one announces a turn again."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import httpx
from managed_session_api import names
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.pod import Pod

from ..support.leaders import LEASE, leader
from ..support.sessions import QUICK, begin, written_down
from ..support.systems import StartSystem
from ..support.waiting import eventually

SETTINGS = {**QUICK, "webhook_silence_turns": "2", "webhook_silence_seconds": "1"}


async def notes(system: LocalSystem) -> dict[str, str]:
    found = await system.control_plane.kubectl(
        f"--namespace={system.system_namespace}", "get", "lease", LEASE, "--output=json"
    )
    noted: dict[str, str] = json.loads(found)["metadata"].get("annotations", {})
    return noted


async def gauge(pod: Pod, name: str = "webhook_silent") -> float:
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        text = (await client.get(f"{pod.probe_url}/metrics")).text
    line = next(line for line in text.splitlines() if line.startswith(f"managed_sessions_{name} "))
    return float(line.rsplit(" ", 1)[1])


async def warnings(system: LocalSystem) -> int:
    found = await system.control_plane.kubectl(
        f"--namespace={system.system_namespace}", "get", "events", "--output=json"
    )
    return len([event for event in json.loads(found)["items"] if event["reason"] == "WebhookSilent"])


async def turn(system: LocalSystem) -> None:
    """A turn of a new session, until its end is recorded."""
    async with begin(system) as conversation:
        await conversation.say("Run: true")
        await eventually("it is recorded", lambda: written_down(system, conversation.session_id))


async def doctor(system: LocalSystem) -> tuple[str, str]:
    """What doctor says about webhook events: the result and the detail."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "managed_session_cli.main", "doctor", "--json"),
        f"--namespace={system.namespace}",
        f"--system-namespace={system.system_namespace}",
        env={**os.environ, "KUBECONFIG": str(system.control_plane.kubeconfig)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    checks: list[dict[str, Any]] = json.loads(output)
    found = next(each for each in checks if each["check"] == "webhook events")
    return found["result"], found["detail"]


async def test_silence_is_noticed_outlives_the_leader_and_ends_with_the_next_event(
    start_system: StartSystem,
) -> None:
    system = await start_system(operator_settings=SETTINGS)
    [endpoint] = await system.anthropic_admin.webhooks()
    await _is_not_silent_before_its_first_event(system, endpoint.id)
    await turn(system)

    async def heard() -> bool:
        return names.ANNOTATION_WEBHOOK_HEARD in await notes(system)

    await eventually("the Lease says that an event was heard", heard)
    await system.anthropic_admin.change_webhook(endpoint.id, enabled=False)
    await turn(system)
    assert await gauge(system.operator) == 0, "one turn means nothing"
    while await gauge(system.operator) == 0:
        # At least one more turn, and at least a second after the first one.
        await turn(system)

    async def noted() -> bool:
        return names.ANNOTATION_WEBHOOK_SILENT in await notes(system)

    await eventually("the Lease says it", noted)
    await eventually("an Event says it", lambda: _once(system))
    since = (await notes(system))[names.ANNOTATION_WEBHOOK_SILENT]
    result, detail = await doctor(system)
    assert (result, f"missing since {since}" in detail) == ("failed", True)

    first = system.operator
    await first.process.stop(kill=True)
    second = await system.start_operator()
    assert await leader(system, other_than=first) is second
    await eventually("the next leader knows it", lambda: _is(second, 1))
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        probe = (await client.get(f"{second.probe_url}/readyz")).json()
    assert probe["webhookEvents"] == f"missing since {since}"

    await system.anthropic_admin.change_webhook(endpoint.id, enabled=True)
    await turn(system)
    await eventually("it is over", lambda: _is(second, 0))

    async def forgotten() -> bool:
        return names.ANNOTATION_WEBHOOK_SILENT not in await notes(system)

    await eventually("the Lease says so", forgotten)
    assert (await doctor(system))[0] == "ok"
    assert await warnings(system) == 1


async def _is_not_silent_before_its_first_event(system: LocalSystem, endpoint_id: str) -> None:
    await system.anthropic_admin.change_webhook(endpoint_id, enabled=False)
    await turn(system)
    await turn(system)

    async def noted() -> bool:
        return (await notes(system)).get(names.ANNOTATION_POLLED_TURNS) == "2"

    await eventually("the turns are counted", noted)
    assert await gauge(system.operator) == 0
    assert await doctor(system) == ("ok", "none seen yet: turns are found by polling")
    await system.anthropic_admin.change_webhook(endpoint_id, enabled=True)


async def _once(system: LocalSystem) -> bool:
    return await warnings(system) == 1


async def _is(pod: Pod, value: float) -> bool:
    return await gauge(pod) == value
