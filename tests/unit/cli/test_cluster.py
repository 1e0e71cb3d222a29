"""What is said when the API server refuses or is not there, and what is never repeated."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from managed_session_cli.cluster import Cluster, Reference
from managed_session_cli.errors import ClusterError, CommandError
from managed_session_cli.keys import SecretWrite, secret_manifest

VALUE = "c2VjcmV0LXZhbHVl"
REFUSAL = {
    "kind": "Status",
    "status": "Failure",
    "message": f"admission webhook says no to {VALUE}",
    "code": 422,
}


class RefusingServer(BaseHTTPRequestHandler):
    """Knows Secrets and ConfigMaps, and refuses every one with a message that quotes its value."""

    def do_GET(self) -> None:
        resources = [
            {"name": "secrets", "kind": "Secret", "namespaced": True},
            {"name": "configmaps", "kind": "ConfigMap", "namespaced": True},
        ]
        self._answer(200, {"kind": "APIResourceList", "resources": resources})

    def do_POST(self) -> None:
        self._answer(422, REFUSAL)

    def do_PATCH(self) -> None:
        self._answer(422, REFUSAL)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Cluster]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), RefusingServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Cluster(kubeconfig(tmp_path, f"http://127.0.0.1:{server.server_address[1]}"))
    server.shutdown()
    server.server_close()


def kubeconfig(folder: Path, url: str) -> Path:
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path


def test_refused_secret_is_not_quoted(refusing: Cluster) -> None:
    manifest = secret_manifest(SecretWrite("s", False, {"e2b-api-key": "secret-value"}, ()), "n")
    reference = Reference("v1", "Secret", "s", "n")
    calls: tuple[Callable[[], object], ...] = (
        lambda: refusing.create(manifest),
        lambda: refusing.apply(manifest),
        lambda: refusing.merge(reference, {"data": manifest["data"]}),
    )
    for call in calls:
        with pytest.raises(ClusterError, match=r"Secret s in n with HTTP 422") as refused:
            call()
        assert VALUE not in str(refused.value)


def test_refused_object_of_another_kind_says_why(refusing: Cluster) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "n"}}
    with pytest.raises(ClusterError, match=r"ConfigMap m in n with HTTP 422: admission webhook says no"):
        refusing.apply(manifest)


def test_kind_that_the_server_does_not_know_is_absent(refusing: Cluster) -> None:
    assert refusing.get(Reference("v1", "Unheard", "u", "n")) is None
    assert refusing.list("v1", "Unheard") == []
    assert refusing.delete(Reference("v1", "Unheard", "u", "n")) is False


def test_server_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig(tmp_path, "http://127.0.0.1:1"))
    with pytest.raises(ClusterError, match=r"http://127.0.0.1:1 cannot be reached.*--context"):
        cluster.version()


def test_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"missing cannot be used.*--kubeconfig"):
        Cluster(tmp_path / "missing")
    with pytest.raises(CommandError, match="cannot be used"):
        Cluster(kubeconfig(tmp_path, "http://127.0.0.1:1"), context="another")


@pytest.mark.parametrize("content", ["hello", "- a\n- b", "foo: [", "clusters: {}", ""])
def test_file_that_is_no_kubeconfig_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    with pytest.raises(CommandError, match=f"the kubeconfig {file} cannot be used") as raised:
        Cluster(file)
    assert ".." not in str(raised.value)
