"""What /livez and /readyz of the operator say while something stands still, or somebody has to act."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.pod import Pod

from ..support.api_server_proxy import ApiServerProxy
from ..support.leaders import leader
from ..support.sessions import QUICK, becomes, begin
from ..support.systems import local_system
from ..support.waiting import eventually

E2B_KEY = "e2b-api-key"


@pytest.fixture(scope="module")
async def proxy(control_plane: ControlPlane) -> AsyncIterator[ApiServerProxy]:
    async with ApiServerProxy(control_plane.url, control_plane.ca_file) as running:
        yield running


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane, proxy: ApiServerProxy) -> AsyncIterator[LocalSystem]:
    async with local_system(
        control_plane,
        operators=2,
        operator_settings={**QUICK, "watch_deadline_seconds": "8"},
        api_server_urls={"operator-1": proxy.url, "operator-2": proxy.url},
    ) as running:
        yield running


async def probe(pod: Pod, path: str, seconds: float = 30.0) -> tuple[int, dict[str, Any]]:
    """The answer; status 0 for none within so many seconds."""
    async with httpx.AsyncClient(timeout=seconds, trust_env=False) as client:
        try:
            answer = await client.get(f"{pod.probe_url}/{path}")
        except httpx.TimeoutException:
            return 0, {}
        return answer.status_code, answer.json()


async def answers(pod: Pod, path: str, status: int) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found = await probe(pod, path)
        return found[1] | {"found": True} if found[0] == status else None

    return await eventually(f"/{path} of {pod.name} answers {status}", look)


async def test_leader_and_standby_are_alive_and_ready(system: LocalSystem) -> None:
    leading = await leader(system)
    for pod in system.operators:
        await answers(pod, "livez", 200)

    async def say_who_leads() -> bool:
        said = [await probe(pod, "readyz") for pod in system.operators]
        return [(status, each.get("leading")) for status, each in said] == [
            (200, pod is leading) for pod in system.operators
        ]

    await eventually("both are ready, and say who leads", say_who_leads)


async def test_process_that_stands_still_does_not_answer(system: LocalSystem) -> None:
    pod = await leader(system)
    pod.process.freeze()
    try:
        assert await probe(pod, "livez", seconds=2.0) == (0, {})
    finally:
        pod.process.thaw()
    await answers(pod, "livez", 200)


async def test_watch_that_stays_silent_beyond_its_deadline_fails_liveness_until_it_speaks_again(
    system: LocalSystem, proxy: ApiServerProxy
) -> None:
    pod = await leader(system)
    async with begin(system) as conversation:
        assert "one" in await conversation.say("Run: echo one")
        await becomes(system, conversation.session_id, "Idle", status="True")
        await answers(pod, "livez", 200)
        silence = proxy.silence_watches()
        name = f"{names.PLURAL}/{names.resource_name(conversation.session_id)}"
        await system.kubectl("label", name, "team=other")
        said = await answers(pod, "livez", 503)
        assert list(said["stuck"]) == ["watch"]
        assert "two" in await conversation.say("Run: echo two"), "the resync serves it all the same"
        proxy.remove(silence)
        await proxy.expire_watches()
        await answers(pod, "livez", 200)


async def test_api_server_that_is_away_kills_nobody(system: LocalSystem, proxy: ApiServerProxy) -> None:
    async with proxy.partitioned():

        async def nobody_leads() -> bool:
            return not any([(await probe(pod, "readyz"))[1].get("leading") for pod in system.operators])

        await eventually("nobody leads", nobody_leads)
        for pod in system.operators:
            assert (await probe(pod, "livez"))[0] == 200
    await leader(system)


async def test_missing_credential_makes_a_pod_unready_and_says_which_and_restarts_nothing(
    system: LocalSystem,
) -> None:
    pod = system.operator
    good = (pod.credentials / E2B_KEY).read_text().strip()
    pod.set_credential(E2B_KEY, None)
    try:
        said = await answers(pod, "readyz", 503)
        assert E2B_KEY in said["credentials"]
        assert good not in json.dumps(said)
        assert (await probe(pod, "livez"))[0] == 200
    finally:
        pod.set_credential(E2B_KEY, good)
    await answers(pod, "readyz", 200)
