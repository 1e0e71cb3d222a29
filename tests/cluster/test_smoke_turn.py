"""The guide's smoke test and what follows it, through all the real parts."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import psutil
import pytest
from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.systems import StartSystem, local_system
from ..support.waiting import eventually

SMOKE = "Use bash to echo webhook-smoke-ok. Answer only with that text."
WORKER_LOG = "/opt/anthropic-managed-agents/worker.log"


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    """One system for the tests of this file; their sessions have nothing to do with each other."""
    async with local_system(
        control_plane,
        operator_settings={"sandbox_creation_rate": "20", "sandbox_creation_burst": "20"},
        # As in a pod, so that their command lines and environments are the real ones.
        fork_server=None,
    ) as running:
        yield running


@asynccontextmanager
async def conversation(system: LocalSystem) -> AsyncIterator[Conversation]:
    async with Conversation.begin(
        system.user, agent_id=system.agent_id, environment_id=system.clouds.environment_id
    ) as begun:
        yield begun


async def resource(system: LocalSystem, session_id: str) -> dict[str, Any]:
    """The session's resource, or an empty one."""
    found = await system.kubectl(
        "get", names.PLURAL, names.resource_name(session_id), "--ignore-not-found", "--output=json"
    )
    return json.loads(found) if found else {}


async def idle(system: LocalSystem, session_id: str, turns: int = 1) -> dict[str, Any]:
    """The session's resource once it is idle and its sandbox paused."""

    async def look() -> dict[str, Any]:
        found = await resource(system, session_id)
        status = found.get("status", {})
        settled = status.get("phase") == "Idle" and status.get("turns") == turns
        return found if settled and status["sandbox"]["state"] == "Paused" else {}

    return await eventually(f"{session_id} is idle after {turns} turns", look)


async def test_answer_is_what_bash_printed(system: LocalSystem) -> None:
    async with conversation(system) as session:
        assert await session.say(SMOKE) == "webhook-smoke-ok"
    status = (await idle(system, session.session_id))["status"]
    assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "True"
    assert (await system.user.beta.sessions.retrieve(session.session_id)).status == "idle"


async def test_healthy_run_shows_what_the_guide_says(system: LocalSystem) -> None:
    async with conversation(system) as session:
        await session.say(SMOKE)
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        assert (await client.get(f"{system.base_url}/health")).json()["ok"] is True
    logs = system.webhook.log.read_text() + system.operator.log.read_text()
    for message in ("routing work", "assigned session"):
        records = [json.loads(line) for line in logs.splitlines() if f'"{message}"' in line]
        assert any(record["session"] == session.session_id for record in records), message
    sandbox_id = (await idle(system, session.session_id))["status"]["sandbox"]["id"]
    sandbox = await system.e2b_admin.sandbox(sandbox_id)
    assert "posted result" in sandbox.path(WORKER_LOG).read_text()


async def test_second_turn_after_a_pause_has_the_first_ones_files_and_sandbox(system: LocalSystem) -> None:
    async with conversation(system) as session:
        await session.say("Run: echo left-by-the-first > /mnt/session/file")
        first = await idle(system, session.session_id)
        sandbox_id = first["status"]["sandbox"]["id"]
        sandbox = await system.e2b_admin.sandbox(sandbox_id)
        assert sandbox.state == "paused"
        assert sandbox.raw["lifecycle"] == {"onTimeout": "pause", "autoResume": False}
        assert await session.say("Run: cat /mnt/session/file") == "left-by-the-first"
        second = await idle(system, session.session_id, turns=2)
    assert second["status"]["sandbox"]["id"] == sandbox_id
    assert (await system.e2b_admin.sandbox(sandbox_id)).resumes == 1


async def test_sessions_do_not_see_each_others_files(system: LocalSystem) -> None:
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(conversation(system)) for _ in range(3)]
        answers = await asyncio.gather(
            *(each.say(f"Run: touch own-{i}; ls -A /mnt/session") for i, each in enumerate(sessions))
        )
        assert [sorted(answer.split()) for answer in answers] == [
            sorted((f"own-{i}", "outputs", "skills")) for i in range(3)
        ]
        settled = [await idle(system, each.session_id) for each in sessions]
    assert len({each["status"]["sandbox"]["id"] for each in settled}) == 3


async def test_session_deleted_at_anthropic_leaves_no_resource_and_no_sandbox(system: LocalSystem) -> None:
    async with conversation(system) as session:
        await session.say(SMOKE)
        sandbox_id = (await idle(system, session.session_id))["status"]["sandbox"]["id"]
    await system.user.beta.sessions.delete(session.session_id)

    async def gone() -> bool:
        return not await resource(system, session.session_id)

    await eventually("the resource is gone", gone)
    assert (await system.e2b_admin.sandbox(sandbox_id)).state == "killed"


async def test_resource_deleted_by_kubectl_takes_its_sandbox_and_token_along(system: LocalSystem) -> None:
    async with conversation(system) as session:
        await session.say(SMOKE)
        name = names.resource_name(session.session_id)
        sandbox_id = (await resource(system, session.session_id))["status"]["sandbox"]["id"]
        await system.kubectl("delete", names.PLURAL, name, "--timeout=50s")
        assert (await system.e2b_admin.sandbox(sandbox_id)).state == "killed"
        secrets = await system.kubectl("get", "secrets", "--output=name")
        assert names.token_secret_name(name) not in secrets


async def test_signing_key_that_is_added_later_counts_without_a_restart(start_system: StartSystem) -> None:
    system = await start_system(register_webhook=False, operators=0)
    process = system.webhook.process.pid
    assert await system.webhook_status() == httpx.codes.SERVICE_UNAVAILABLE
    await system.add_signing_key()
    assert await system.webhook_status() == httpx.codes.UNAUTHORIZED
    assert system.webhook.process.pid == process


def test_each_pod_holds_its_own_credentials_and_nothing_else(system: LocalSystem) -> None:
    held = {
        pod.name: {path.name for path in pod.credentials.glob("[!.]*")}
        for pod in (system.webhook, system.operator)
    }
    assert held == {
        "webhook": {"anthropic-webhook-signing-key"},
        "operator-1": {"anthropic-environment-id", "anthropic-environment-key", "e2b-api-key"},
    }
    for pod in (system.webhook, system.operator):
        assert {stat.S_IMODE(path.stat().st_mode) for path in pod.credentials.glob("[!.]*")} == {0o600}
        assert stat.S_IMODE(pod.credentials.stat().st_mode) == 0o700


def test_credentials_are_in_no_command_line_and_no_environment(system: LocalSystem) -> None:
    secrets = [
        value for name, value in system.clouds.credentials.items() if name != "anthropic-environment-id"
    ]
    for pod in (system.webhook, system.operator):
        process = psutil.Process(pod.process.pid)
        seen = "\0".join((*process.cmdline(), *process.environ().values()))
        assert not any(secret in seen for secret in secrets)


async def test_webhook_and_operator_have_exactly_their_own_rights(system: LocalSystem) -> None:
    users = {}
    for pod in (system.webhook, system.operator):
        process = psutil.Process(pod.process.pid)
        kubeconfig = json.loads(open(process.environ()["KUBECONFIG"]).read())  # noqa: ASYNC230, PTH123, SIM115
        users[pod.name] = kubeconfig["users"][0]
    assert {name: list(user["user"]) for name, user in users.items()} == {
        "webhook": ["token"],
        "operator-1": ["token"],
    }
    assert {user["name"] for user in users.values()} == {
        "managed-session-webhook",
        "managed-session-operator",
    }
