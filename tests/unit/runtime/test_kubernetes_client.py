"""The connection to the API server: its configuration, timeouts and token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kubernetes.aio.client import ApiClient
from managed_session_runtime.kubernetes_client import KubernetesConfigurationError, connect
from managed_session_runtime.probes import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ...support.kubeconfigs import write_kubeconfig


async def echo(request: Request) -> Response:
    return PlainTextResponse(f"{request.headers.get('authorization')}|{request.headers.get('user-agent')}")


async def hang(_: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[str]:
    app = Starlette(routes=[Route("/echo", echo), Route("/hang", hang)])
    async with serve(app, host="127.0.0.1", port=0, drain_seconds=1) as running:
        yield running.url


@pytest.fixture
def kubeconfig(tmp_path: Path, server: str) -> Path:
    (tmp_path / "token").write_text("first-token")
    return write_kubeconfig(tmp_path, server, user={"tokenFile": str(tmp_path / "token")})


async def get(client: ApiClient, path: str) -> str:
    call = await client.param_serialize("GET", path, auth_settings=["BearerToken"])
    response = await client.call_api(*call)
    return bytes(await response.read()).decode()  # type: ignore[no-untyped-call]


async def test_the_token_of_a_kubeconfig_is_sent_and_renewed(kubeconfig: Path) -> None:
    environ = {"KUBECONFIG": str(kubeconfig)}
    async with await connect(environ=environ, user_agent="tester", token_refresh_seconds=0) as client:
        assert await get(client, "/echo") == "Bearer first-token|tester"
        (kubeconfig.parent / "token").write_text("second-token")
        assert await get(client, "/echo") == "Bearer second-token|tester"


async def test_the_last_token_is_kept_while_the_kubeconfig_is_broken(kubeconfig: Path) -> None:
    environ = {"KUBECONFIG": str(kubeconfig)}
    async with await connect(environ=environ, user_agent="tester", token_refresh_seconds=0) as client:
        kubeconfig.write_text("{")
        assert await get(client, "/echo") == "Bearer first-token|tester"


async def test_a_call_without_its_own_timeout_ends_in_time(kubeconfig: Path) -> None:
    async with await connect(environ={"KUBECONFIG": str(kubeconfig)}, timeout_seconds=0.1) as client:
        with pytest.raises(TimeoutError):
            await get(client, "/hang")


@pytest.mark.parametrize("variable", ["", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"])
async def test_a_missing_configuration_is_explained(tmp_path: Path, variable: str) -> None:
    environ = {"HOME": str(tmp_path)} | ({variable: str(tmp_path / "absent")} if variable else {})
    with pytest.raises(KubernetesConfigurationError, match=r"configur"):
        await connect(environ=environ)
