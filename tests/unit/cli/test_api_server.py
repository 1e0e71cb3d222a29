"""How the command line verifies API servers on every Python, and which proxies it uses."""

from __future__ import annotations

import asyncio
import ssl
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from managed_session_cli.cluster import Cluster
from managed_session_cli.errors import ClusterError
from urllib3.util.ssl_ import create_urllib3_context

from ...support.certificates import BareAuthority, issue_bare
from ...support.forward_proxy import ForwardProxy
from ...support.kubeconfigs import write_kubeconfig


@pytest.fixture(autouse=True)
def strict_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 3.13, make urllib3's default context as strict as on 3.13, so that each version tests it."""
    if sys.version_info >= (3, 13):
        return

    def strict(**kwargs: Any) -> ssl.SSLContext:
        context = create_urllib3_context(**kwargs)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr("managed_session_cli.api_server.create_urllib3_context", strict)


class VersionServer(BaseHTTPRequestHandler):
    """Answers the first request of every client."""

    def do_GET(self) -> None:
        groups = b'{"kind": "APIGroupList", "groups": []}'
        content = b'{"gitVersion": "v1.37.2"}' if self.path == "/version" else groups
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> BareAuthority:
    return issue_bare(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def port(authority: BareAuthority) -> Iterator[int]:
    """A server whose certificate has no key identifiers and no usage."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), VersionServer)
    server.socket = authority.server_context().wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_a_certificate_without_key_identifiers_and_usage_is_accepted(
    authority: BareAuthority, port: int, tmp_path: Path
) -> None:
    cluster = Cluster(write_kubeconfig(tmp_path, f"https://127.0.0.1:{port}", ca=authority.ca))
    assert cluster.version() == "v1.37.2"


def test_a_certificate_for_another_host_is_refused(
    authority: BareAuthority, port: int, tmp_path: Path
) -> None:
    with pytest.raises(ClusterError):
        Cluster(write_kubeconfig(tmp_path, f"https://localhost:{port}", ca=authority.ca)).version()


def test_a_certificate_of_another_authority_is_refused(port: int, tmp_path: Path) -> None:
    other = issue_bare(tmp_path / "other")
    with pytest.raises(ClusterError):
        Cluster(write_kubeconfig(tmp_path, f"https://127.0.0.1:{port}", ca=other.ca)).version()


async def test_proxy_variables_do_not_divert_calls_to_the_api_server(
    authority: BareAuthority, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ForwardProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", ".example.com")
        cluster = Cluster(write_kubeconfig(tmp_path, f"https://127.0.0.1:{port}", ca=authority.ca))
        assert await asyncio.to_thread(cluster.version) == "v1.37.2"
        assert proxy.asked == []


@pytest.mark.parametrize("named_by", ["the variable", "the kubeconfig"])
async def test_a_proxy_that_is_named_for_the_api_server_is_used(
    authority: BareAuthority, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    async with ForwardProxy() as proxy:
        if named_by == "the variable":
            monkeypatch.setenv("MANAGED_SESSIONS_KUBERNETES_PROXY_URL", proxy.url)
        in_file = proxy.url if named_by == "the kubeconfig" else ""
        cluster = Cluster(
            write_kubeconfig(tmp_path, f"https://127.0.0.1:{port}", ca=authority.ca, proxy=in_file)
        )
        assert await asyncio.to_thread(cluster.version) == "v1.37.2"
        assert set(proxy.asked) == {f"127.0.0.1:{port}"}
