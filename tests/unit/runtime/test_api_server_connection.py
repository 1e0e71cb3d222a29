"""How API servers are verified on every Python, and which proxies are used."""

from __future__ import annotations

import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient
from managed_session_runtime.kubernetes_client import connect, open_session

from ...support.certificates import BareAuthority, issue_bare
from ...support.forward_proxy import ForwardProxy
from ...support.kubeconfigs import write_kubeconfig


@pytest.fixture(autouse=True)
def strict_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 3.13, make Python's default context as strict as on 3.13, so that each version tests it."""
    if sys.version_info >= (3, 13):
        return
    lenient = ssl.create_default_context

    def strict(*args: object, **kwargs: object) -> ssl.SSLContext:
        context = lenient(*args, **kwargs)  # type: ignore[arg-type]
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> BareAuthority:
    return issue_bare(tmp_path_factory.mktemp("authority"))


async def echo(request: web.Request) -> web.Response:
    return web.Response(text=request.headers.get("authorization", ""))


@pytest.fixture
async def port(authority: BareAuthority) -> AsyncIterator[int]:
    """A server whose certificate has no key identifiers and no usage."""
    app = web.Application()
    app.router.add_get("/echo", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server_context()).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def kubeconfig(folder: Path, server: str, ca: Path, *, proxy: str = "") -> dict[str, str]:
    return {"KUBECONFIG": str(write_kubeconfig(folder, server, ca=ca, proxy=proxy))}


async def get(client: ApiClient) -> str:
    response = await client.call_api(
        *await client.param_serialize("GET", "/echo", auth_settings=["BearerToken"])
    )
    return bytes(await response.read()).decode()  # type: ignore[no-untyped-call]


async def both_get(environ: dict[str, str], *, proxy_url: str | None = None) -> set[str]:
    """Return the answers to the client of our calls and to the session of the watch."""
    async with await connect(environ=environ, proxy_url=proxy_url) as client:
        answers = {await get(client)}
    opened = await open_session(environ=environ, proxy_url=proxy_url)
    async with opened.session, opened.session.get(f"{opened.url}/echo") as response:
        return answers | {await response.text()}


async def test_pythons_strict_check_refuses_the_certificate(authority: BareAuthority, port: int) -> None:
    context = ssl.create_default_context(cafile=str(authority.ca))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="Authority Key Identifier"):
            await session.get(f"https://127.0.0.1:{port}/echo")


async def test_a_certificate_without_key_identifiers_and_usage_is_accepted(
    authority: BareAuthority, port: int, tmp_path: Path
) -> None:
    environ = kubeconfig(tmp_path, f"https://127.0.0.1:{port}", authority.ca)
    assert await both_get(environ) == {"Bearer secret-token"}


async def test_a_certificate_for_another_host_is_refused(
    authority: BareAuthority, port: int, tmp_path: Path
) -> None:
    environ = kubeconfig(tmp_path, f"https://localhost:{port}", authority.ca)
    async with await connect(environ=environ) as client:
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="localhost"):
            await get(client)
    opened = await open_session(environ=environ)
    async with opened.session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="localhost"):
            await opened.session.get(f"{opened.url}/echo")


async def test_a_certificate_of_another_authority_is_refused(port: int, tmp_path: Path) -> None:
    other = issue_bare(tmp_path / "other")
    environ = kubeconfig(tmp_path, f"https://127.0.0.1:{port}", other.ca)
    async with await connect(environ=environ) as client:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await get(client)


@pytest.mark.parametrize("no_proxy", ["", "127.0.0.0/8", ".example.com"])
async def test_proxy_variables_do_not_divert_calls_to_the_api_server(
    authority: BareAuthority, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    async with ForwardProxy() as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("NO_PROXY", no_proxy)
        environ = kubeconfig(tmp_path, f"https://127.0.0.1:{port}", authority.ca)
        assert await both_get(environ) == {"Bearer secret-token"}
        assert proxy.asked == []


@pytest.mark.parametrize("named_by", ["the setting", "the kubeconfig"])
async def test_a_proxy_that_is_named_for_the_api_server_is_used(
    authority: BareAuthority, port: int, tmp_path: Path, named_by: str
) -> None:
    async with ForwardProxy() as proxy:
        in_file = proxy.url if named_by == "the kubeconfig" else ""
        environ = kubeconfig(tmp_path, f"https://127.0.0.1:{port}", authority.ca, proxy=in_file)
        assert await both_get(environ, proxy_url=None if in_file else proxy.url) == {"Bearer secret-token"}
        assert proxy.asked == [f"127.0.0.1:{port}"] * 2
