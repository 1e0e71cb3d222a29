"""Secrets that an agent can use and not read, through a rotation, a pause, a restart and a lost sandbox."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.sandbox_search import everything_in

from ..support.classes import delete_classes, make_class
from ..support.echo_server import EchoServer
from ..support.held import WAIT, let_go
from ..support.sessions import QUICK, becomes, begin, paused, resource, sandboxes_of
from ..support.systems import local_system
from ..support.waiting import eventually

HOST, OTHER = "api.example.com", "other.example"
CURL = f"curl --silent --max-time 20 http://{HOST}/"
DENIED = f"curl --silent --max-time 20 http://{OTHER}/ || echo denied"


@pytest.fixture(scope="module")
async def shared(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(
        control_plane, operator_settings=QUICK, e2b_settings={"egress_proxy": True}
    ) as running:
        yield running


@pytest.fixture
async def server(shared: LocalSystem) -> AsyncIterator[EchoServer]:
    async with EchoServer() as echo:
        hosts = {f"{name}:80": echo.address for name in (HOST, OTHER)}
        await shared.e2b_admin.change_settings(egress_hosts=hosts)
        yield echo


@pytest.fixture
async def system(shared: LocalSystem) -> AsyncIterator[LocalSystem]:
    yield shared
    await delete_classes(shared)


async def put_secret(system: LocalSystem, **values: str) -> None:
    """Create the Secret, or change it."""
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "github"},
        "stringData": values,
    }
    await system.kubectl("apply", "--filename=-", input=json.dumps(body))


async def declare(system: LocalSystem, **more: Any) -> None:
    """A class of the system's agent that has the secret as a header and as a variable."""
    reference = {"name": "github", "key": "token"}
    sandbox = {
        "secrets": [
            {"host": HOST, "header": "Authorization", "prefix": "Bearer ", "secretRef": reference},
            {"host": HOST, "header": "X-Team", "secretRef": {"name": "github", "key": "team"}},
        ],
        "network": {"preset": "allowlist"},
        **more,
    }
    spec = {"selector": {"agentIDs": [system.agent_id]}, "session": {"sandbox": sandbox}}
    await make_class(system, "with-secrets", spec)


def seen(server: EchoServer) -> str:
    """The secret that came with the newest request."""
    (value,) = server.requests[-1].headers["authorization"]
    return value.removeprefix("Bearer ")


async def rules_sent(system: LocalSystem) -> int:
    """How often E2B was given rules."""
    return len((await system.e2b_admin.ledger(operation="network")).calls)


async def working(system: LocalSystem, conversation: Conversation, server: EchoServer) -> SimulatedSandbox:
    """Wait until the agent's command has made its first request; returns the sandbox."""
    before = len(server.requests)

    async def look() -> bool:
        return len(server.requests) > before

    await eventually("the agent has made a request", look)
    (sandbox,) = await sandboxes_of(system, conversation.session_id, "running")
    return sandbox


async def test_an_agent_uses_a_secret_that_is_nowhere_in_its_sandbox(
    system: LocalSystem, server: EchoServer
) -> None:
    values = [f"s3cret-{name}-{os.urandom(8).hex()}" for name in ("first", "second", "third", "fourth")]
    await put_secret(system, token=values[0], team="blue")
    await declare(system, envFrom=[{"name": "TEAM", "secretRef": {"name": "github", "key": "team"}}])
    async with begin(system) as conversation:
        session_id = conversation.session_id
        await conversation.send(f"Run: {CURL}; {DENIED}; echo $TEAM; {WAIT}; {CURL}")
        sandbox = await working(system, conversation, server)
        assert (seen(server), server.requests[-1].headers["x-team"]) == (values[0], ["blue"])
        found = list(everything_in(sandbox))
        assert any(name.endswith("mem") and content for name, content in found) or os.geteuid()
        assert not [name for name, content in found if values[0].encode() in content]

        # Rotated in the running turn, without a restart.
        sent = await rules_sent(system)
        await put_secret(system, token=values[1], team="blue")
        await eventually("E2B has the new rules", lambda: _more(system, sent))
        let_go(sandbox)
        assert await conversation.answer() == "served\ndenied\nblue\nserved"
        assert seen(server) == values[1]

        # Rotated during the pause, and served by another operator process.
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        await becomes(system, session_id, "Idle", status="True")
        await put_secret(system, token=values[2], team="blue")
        await system.operator.restart()
        assert await conversation.say(f"Run: {CURL}") == "served"
        assert seen(server) == values[2]

        # In the sandbox that replaces a lost one.
        await eventually("the sandbox is paused", lambda: paused(system, session_id))
        await becomes(system, session_id, "Idle", status="True")
        (lost,) = await sandboxes_of(system, session_id, "paused")
        await system.e2b_admin.vanish(lost.id)
        await put_secret(system, token=values[3], team="blue")
        assert (await conversation.say(f"Run: {CURL}")).splitlines()[-1] == "served"
        assert seen(server) == values[3]

        told = [path.read_text() for name, path in system.logs.items() if "simulator" not in name]
        kinds = "managedsessions,managedsessionclasses,events,configmaps"
        told.append(await system.control_plane.kubectl("get", kinds, "--all-namespaces", "--output=yaml"))
        for value in values:
            encoded = base64.b64encode(value.encode()).decode().rstrip("=")
            assert not any(value in each or encoded in each for each in told)


async def _more(system: LocalSystem, than: int) -> bool:
    return await rules_sent(system) > than


async def test_a_session_waits_for_its_secret_and_goes_on_by_itself(
    system: LocalSystem, server: EchoServer
) -> None:
    await system.kubectl("delete", "secret", "github", "--ignore-not-found")
    await declare(system)
    async with begin(system) as conversation:
        await conversation.send(f"Run: {CURL}")
        waits = await becomes(system, conversation.session_id, "ReferenceInvalid")
        assert "Secret github" in waits["message"]
        assert not await sandboxes_of(system, conversation.session_id)
        await put_secret(system, token="there", team="blue")
        assert await conversation.answer() == "served"
        assert seen(server) == "there"
        status = (await resource(system, conversation.session_id))["status"]
        assert status["effective"]["secrets"][0]["secretRef"]["name"] == "github"


async def test_a_closed_network_reaches_nothing_but_anthropic(
    system: LocalSystem, server: EchoServer
) -> None:
    spec = {
        "selector": {"agentIDs": [system.agent_id]},
        "session": {"sandbox": {"network": {"preset": "closed"}}},
    }
    await make_class(system, "closed", spec)
    async with begin(system) as conversation:
        assert await conversation.say(f"Run: {CURL} || echo denied") == "denied"
        anthropic = system.clouds.environment["ANTHROPIC_BASE_URL"]
        command = f"curl --silent --max-time 20 --output /dev/null {anthropic}/ && echo reached"
        assert await conversation.say(f"Run: {command}") == "reached"
    assert not server.requests
