"""What leaves a simulated sandbox: which rules are taken, and what they do to a real request."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from e2b import E2B, SandboxException
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

from ....support.echo_server import EchoServer

ALL = "0.0.0.0/0"
HOST = "api.example.com"


@pytest.fixture
async def server(control: E2BSimulatorClient) -> AsyncIterator[EchoServer]:
    async with EchoServer() as echo:
        hosts = {f"{name}:80": echo.address for name in (HOST, "other.example")}
        await control.change_settings(egress_proxy=True, egress_hosts=hosts)
        yield echo


def rule(**headers: str) -> Any:
    return [{"transform": {"headers": headers}}]


def curl(url: str, *more: str) -> str:
    return f"curl --silent --max-time 20 {url} {' '.join(more)}"


async def test_a_header_is_added_outside_and_survives_a_pause(
    e2b: E2B, control: E2BSimulatorClient, server: EchoServer
) -> None:
    sandbox = await e2b.AsyncSandbox.create(
        "base", network={"rules": {HOST: rule(Authorization="Bearer s3cret")}}
    )
    await sandbox.commands.run(curl(f"http://{HOST}/a?b=c", "--header 'authorization: mine'"))
    assert server.requests[-1].line == "GET /a?b=c HTTP/1.1"
    assert server.requests[-1].headers["authorization"] == ["Bearer s3cret"]
    await sandbox.commands.run(curl("http://other.example/"))
    assert "authorization" not in server.requests[-1].headers
    await sandbox.pause()
    await sandbox.connect()
    await sandbox.commands.run(curl(f"http://{HOST}/"))
    assert server.requests[-1].headers["authorization"] == ["Bearer s3cret"]
    assert [(each["host"], each["addedHeaders"]) for each in await control.egress()] == [
        (HOST, ["Authorization"]),
        ("other.example", []),
        (HOST, ["Authorization"]),
    ]


async def test_an_update_replaces_everything(
    e2b: E2B, control: E2BSimulatorClient, server: EchoServer
) -> None:
    network: Any = {"rules": {HOST: rule(A="1")}, "allow_out": [HOST], "deny_out": [ALL]}
    sandbox = await e2b.AsyncSandbox.create("base", network=network)
    refused = await sandbox.commands.run(curl("http://other.example/", "|| echo refused"))
    assert refused.stdout.strip() == "refused"
    await sandbox.update_network({"rules": {HOST: rule(B="2")}})
    info = await sandbox.get_info()
    assert info.network is not None
    assert info.network["rules"] == {HOST: rule(B="2")}
    await sandbox.commands.run(curl("http://other.example/"))
    await sandbox.commands.run(curl(f"http://{HOST}/"))
    assert "a" not in server.requests[-1].headers
    assert server.requests[-1].headers["b"] == ["2"]
    await sandbox.update_network({"deny_out": ["10.0.0.0/8"]})
    assert (await control.sandbox(sandbox.sandbox_id)).raw["network"].get("rules", {}) == {}


@pytest.mark.parametrize(
    "rules",
    [
        {f"h{number}.example": rule(A="1") for number in range(11)},
        {HOST: [*rule(A="1"), *rule(B="2")]},
        {HOST: rule(**{f"A{number}": "1" for number in range(21)})},
        {HOST: rule(**{"A" * 65: "1"})},
        {HOST: rule(A="1" * 2049)},
        {"a" * 129: rule(A="1")},
        {HOST: rule(A="1\r\nB: 2")},
    ],
    ids=["domains", "transforms", "headers", "name", "value", "domain", "line break"],
)
async def test_rules_beyond_e2bs_bounds_are_refused(e2b: E2B, rules: Any) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    with pytest.raises(SandboxException) as refused:
        await sandbox.update_network({"rules": rules})
    assert getattr(refused.value, "status_code", None) == 400
