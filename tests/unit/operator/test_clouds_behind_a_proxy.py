"""All clients reach both clouds through a forward proxy, with a private certificate authority."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from ...support.certificates import BareAuthority, issue_bare
from ...support.forward_proxy import ForwardProxy

ROOT = Path(__file__).parents[3]
CLOUDS = ("anthropic.cloud.test", "e2b.cloud.test", "sandbox.cloud.test")
"""Names that only the proxy can resolve."""


@dataclass(frozen=True)
class World:
    """A proxy, and behind it one server that acts as all clouds and records the requests."""

    proxy: ForwardProxy
    authority: BareAuthority
    asked: set[tuple[str, str]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    asked: set[tuple[str, str]] = set()

    async def answer(request: web.Request) -> web.Response:
        asked.add((request.host, request.path))
        if request.path == "/v2/sandboxes":
            return web.json_response([])
        if request.path.startswith("/v1/"):
            return web.json_response({"data": [], "has_more": False, "next_page": None})
        if request.path.endswith("/connect"):
            sandbox = {"sandboxID": "isandbox", "templateID": "t", "clientID": "c", "envdVersion": "0.6.13"}
            return web.json_response(sandbox | {"envdAccessToken": "x"})
        return web.Response(text="content")

    authority = issue_bare(tmp_path, *CLOUDS)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server_context()).start()
    port = runner.addresses[0][1]
    async with ForwardProxy({f"{host}:443": port for host in CLOUDS}) as proxy:
        yield World(proxy, authority, asked)
    await runner.cleanup()


async def calls(world: World, **environment: str) -> str:
    """Return the result of each client's call in a process with these variables."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.cloud_calls",
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HTTPS_PROXY": world.proxy.url,
            "NO_PROXY": "10.0.0.0/8,.svc",
            "ANTHROPIC_BASE_URL": "https://anthropic.cloud.test",
            "E2B_API_URL": "https://e2b.cloud.test",
            "E2B_SANDBOX_URL": "https://sandbox.cloud.test",
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode()


async def test_all_clients_use_the_proxy_and_trust_the_authority(world: World) -> None:
    results = await calls(world, SSL_CERT_FILE=str(world.authority.ca))
    for name in ("anthropic", "e2b", "file", "command line: anthropic", "command line: e2b"):
        assert f"{name}: answered" in results, results
    assert set(world.proxy.asked) == {f"{host}:443" for host in CLOUDS}
    assert {host for host, _ in world.asked} == set(CLOUDS)
    assert ("sandbox.cloud.test", "/process.Process/Start") in world.asked


async def test_without_the_authority_no_client_sends_a_request(world: World) -> None:
    results = await calls(world)
    assert ": answered" not in results, results
    assert not world.asked
