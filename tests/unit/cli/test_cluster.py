"""What is reported if the API server rejects calls or is unreachable, without quoting secrets."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from managed_session_cli.api_server import PATIENT
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


VERSION = {"groupVersion": "managedagents.dev/v1alpha1", "version": "v1alpha1"}
GROUP = {"name": "managedagents.dev", "versions": [VERSION], "preferredVersion": VERSION}
KINDS = [
    {"name": "secrets", "kind": "Secret", "namespaced": True},
    {"name": "configmaps", "kind": "ConfigMap", "namespaced": True},
]
DISCOVERY: dict[str, object] = {
    "/version": {"gitVersion": "v1.37.2"},
    "/apis": {"kind": "APIGroupList", "groups": [GROUP]},
    "/api/v1": {"kind": "APIResourceList", "resources": KINDS},
}
UNAVAILABLE = {"kind": "Status", "status": "Failure", "message": "not now", "code": 503}


class RejectingServer(BaseHTTPRequestHandler):
    """Serves Secrets and ConfigMaps, and rejects each with a message that quotes its value.

    Its other API group is unavailable.
    """

    def do_GET(self) -> None:
        known = DISCOVERY.get(self.path)
        self._answer(503 if known is None else 200, known or UNAVAILABLE)

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


class AnotherServer(RejectingServer):
    """Is not a Kubernetes API server."""

    def do_GET(self) -> None:
        self._answer(200, ["welcome"])


class SilentServer(RejectingServer):
    """Accepts every call and never answers."""

    silent = threading.Event()

    def do_GET(self) -> None:
        self.silent.wait(10)


@contextmanager
def served(
    handler: type[BaseHTTPRequestHandler], folder: Path, timeout: tuple[float, float] = PATIENT
) -> Iterator[Cluster]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Cluster(kubeconfig(folder, f"http://127.0.0.1:{server.server_address[1]}"), timeout=timeout)
    server.shutdown()
    server.server_close()


@pytest.fixture
def rejecting(tmp_path: Path) -> Iterator[Cluster]:
    with served(RejectingServer, tmp_path) as cluster:
        yield cluster


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


def test_rejected_secret_is_not_quoted(rejecting: Cluster) -> None:
    manifest = secret_manifest(SecretWrite("s", False, {"e2b-api-key": "secret-value"}, ()), "n")
    reference = Reference("v1", "Secret", "s", "n")
    calls: tuple[Callable[[], object], ...] = (
        lambda: rejecting.create(manifest),
        lambda: rejecting.apply(manifest),
        lambda: rejecting.merge(reference, {"data": manifest["data"]}),
    )
    for call in calls:
        with pytest.raises(
            ClusterError, match=r"Secret s in n: the API server answered with HTTP 422"
        ) as error:
            call()
        assert VALUE not in str(error.value)


def test_rejected_object_of_another_kind_says_why(rejecting: Cluster) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "n"}}
    with pytest.raises(ClusterError, match=r"apply ConfigMap m in n: .* HTTP 422: admission webhook says no"):
        rejecting.apply(manifest)


def test_object_of_an_unknown_kind_does_not_exist(rejecting: Cluster) -> None:
    assert rejecting.get(Reference("v1", "Unheard", "u", "n")) is None
    assert rejecting.list("v1", "Unheard") == []
    assert rejecting.delete(Reference("v1", "Unheard", "u", "n")) is False


def test_objects_of_an_unavailable_group_may_exist(rejecting: Cluster) -> None:
    kind = ("managedagents.dev/v1alpha1", "ManagedSession")
    with pytest.raises(ClusterError, match=r"list ManagedSessions in n: .* HTTP 503: not now"):
        rejecting.list(*kind, "n")
    with pytest.raises(ClusterError, match="HTTP 503"):
        rejecting.get(Reference(*kind, "s", "n"))


def test_discovery_leaves_nothing_in_the_shared_temporary_folder(
    rejecting: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    assert rejecting.version() == "v1.37.2"
    assert rejecting.list("v1", "Unheard") == []
    assert list(shared.iterdir()) == []


def test_unreachable_server_is_named_with_a_remedy(tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig(tmp_path, "http://127.0.0.1:1"))
    with pytest.raises(ClusterError, match=r"http://127.0.0.1:1 cannot be reached.*refused.*--context"):
        cluster.version()


def test_server_that_is_not_an_api_server_is_named(tmp_path: Path) -> None:
    with (
        served(AnotherServer, tmp_path) as cluster,
        pytest.raises(ClusterError, match="does not answer like a Kubernetes API server"),
    ):
        cluster.version()


def test_call_to_a_silent_server_times_out(tmp_path: Path) -> None:
    with (
        served(SilentServer, tmp_path, (30.0, 0.1)) as cluster,
        pytest.raises(ClusterError, match=r"cannot be reached \(ReadTimeoutError"),
    ):
        cluster.version()
    SilentServer.silent.set()


def test_unusable_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot use the kubeconfig .*missing.*--kubeconfig"):
        Cluster(tmp_path / "missing")
    with pytest.raises(CommandError, match=r"cannot use the kubeconfig"):
        Cluster(kubeconfig(tmp_path, "http://127.0.0.1:1"), context="another")


@pytest.mark.parametrize("content", ["hello", "- a\n- b", "foo: [", "clusters: {}", ""])
def test_file_that_is_not_a_kubeconfig_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    with pytest.raises(CommandError, match=f"cannot use the kubeconfig {file}: ") as raised:
        Cluster(file)
    assert ".." not in str(raised.value)
