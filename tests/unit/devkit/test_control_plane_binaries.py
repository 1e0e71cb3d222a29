"""Where the binaries of the local control plane come from, and which are refused."""

import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from managed_session_devkit.control_plane import (
    BinariesUnavailableError,
    ControlPlaneSettings,
    resolve_binaries,
)
from managed_session_devkit.control_plane.go_build import MODULES
from managed_session_devkit.control_plane.releases import DEFAULT, RELEASES
from managed_session_devkit.control_plane.settings import architecture
from rich.console import Console

NAMES = ("kube-apiserver", "etcd", "kubectl")
UNPINNED = "v1.30.1"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


class Releases:
    """A release server: a real HTTP server with files of a folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"

    def publish(self, version: str, etcd_version: str = DEFAULT.etcd) -> None:
        kubernetes = self.folder / version / "bin" / "linux" / architecture()
        kubernetes.mkdir(parents=True)
        for name in ("kube-apiserver", "kubectl"):
            content = f"{name} {version}".encode()
            (kubernetes / name).write_bytes(content)
            (kubernetes / f"{name}.sha256").write_text(hashlib.sha256(content).hexdigest())
        stem = f"etcd-{etcd_version}-linux-{architecture()}"
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            member = tarfile.TarInfo(f"{stem}/etcd")
            member.size = len(b"etcd")
            tar.addfile(member, io.BytesIO(b"etcd"))
        etcd = self.folder / etcd_version
        etcd.mkdir()
        (etcd / f"{stem}.tar.gz").write_bytes(archive.getvalue())
        digest = hashlib.sha256(archive.getvalue()).hexdigest()
        (etcd / "SHA256SUMS").write_text(f"{'0' * 64}  etcd-other.zip\n{digest}  {stem}.tar.gz\n")

    def kubectl(self, version: str) -> Path:
        return self.folder / version / "bin" / "linux" / architecture() / "kubectl"


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Releases]:
    folder = tmp_path / "releases"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Releases(folder, server.server_address[1])
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, releases: Releases) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MANAGED_SESSIONS_KUBERNETES_DOWNLOAD_URL", releases.url)
    monkeypatch.setenv("MANAGED_SESSIONS_ETCD_DOWNLOAD_URL", releases.url)
    monkeypatch.setenv("MANAGED_SESSIONS_KUBERNETES_VERSION", UNPINNED)


@pytest.fixture
def output() -> Console:
    return Console(file=io.StringIO(), width=400)


def make_binaries(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text(name)
        (folder / name).chmod(0o755)
    return folder


def make_go(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called `go` on PATH, because the real one takes minutes."""
    folder.mkdir()
    (folder / "go").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_KUBERNETES_DOWNLOAD_URL", "http://127.0.0.1:1")


def test_kubebuilder_assets_comes_before_cache_and_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, releases: Releases, output: Console
) -> None:
    releases.publish(UNPINNED)
    make_binaries(ControlPlaneSettings().cache_folder)
    assets = make_binaries(tmp_path / "assets")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    binaries = resolve_binaries(console=output)
    assert binaries.folder == assets
    assert [binaries.kube_apiserver, binaries.etcd, binaries.kubectl] == [assets / name for name in NAMES]


def test_kubebuilder_assets_without_the_binaries_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, releases: Releases, output: Console
) -> None:
    releases.publish(UNPINNED)
    assets = make_binaries(tmp_path / "assets")
    (assets / "etcd").unlink()
    (assets / "kubectl").chmod(0o644)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    with pytest.raises(BinariesUnavailableError) as caught:
        resolve_binaries(console=output)
    assert f"KUBEBUILDER_ASSETS is {assets}, which has no executable etcd, kubectl" in str(caught.value)


def test_release_is_downloaded_once_and_then_served_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, releases: Releases, output: Console
) -> None:
    releases.publish(UNPINNED)
    binaries = resolve_binaries(console=output)
    assert binaries.folder.is_relative_to(tmp_path / "cache" / "managed-sessions")
    assert UNPINNED in binaries.folder.name
    assert binaries.kubectl.read_text() == f"kubectl {UNPINNED}"
    assert binaries.etcd.read_bytes() == b"etcd"
    assert sorted(path.name for path in binaries.folder.iterdir()) == sorted(NAMES)
    assert all(os.access(binaries.folder / name, os.X_OK) for name in NAMES)
    unreachable(monkeypatch)
    assert resolve_binaries(console=output) == binaries


def test_download_that_does_not_match_its_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, releases: Releases, output: Console
) -> None:
    releases.publish(UNPINNED)
    releases.kubectl(UNPINNED).write_text("something else")
    make_go(tmp_path / "go", "exit 0", monkeypatch)
    with pytest.raises(BinariesUnavailableError, match="kubectl does not match its published checksum"):
        resolve_binaries(console=output)
    assert not ControlPlaneSettings().cache_folder.exists()
    left_over = [path.name for path in ControlPlaneSettings().control_plane_cache.iterdir() if path.is_dir()]
    assert left_over == []


def test_answer_that_is_not_a_checksum_leads_to_the_next_source(releases: Releases, output: Console) -> None:
    releases.publish(UNPINNED)
    releases.kubectl(UNPINNED).with_suffix(".sha256").write_text("<html>Sign in to this network</html>")
    with pytest.raises(
        BinariesUnavailableError, match=r"kubectl.sha256 does not answer with a SHA-256 checksum"
    ):
        resolve_binaries(console=output)


def test_unreachable_download_leads_to_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Console
) -> None:
    monkeypatch.delenv("MANAGED_SESSIONS_KUBERNETES_VERSION")
    unreachable(monkeypatch)
    make_go(
        tmp_path / "go",
        'while [ "$1" != -o ]; do shift; done; echo k8s.io/some/package; echo built > "$2"; chmod +x "$2"',
        monkeypatch,
    )
    binaries = resolve_binaries(console=output)
    assert [(binaries.folder / name).read_text() for name in NAMES] == ["built\n"] * 3


@pytest.mark.parametrize("short", RELEASES)
def test_every_release_of_the_table_is_built_from_modules_of_its_own(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Console
) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_KUBERNETES_VERSION", short)
    unreachable(monkeypatch)
    make_go(
        tmp_path / "go",
        'while [ "$1" != -o ]; do shift; done; cat go.mod > "$2"; test -s go.sum; chmod +x "$2"',
        monkeypatch,
    )
    binaries = resolve_binaries(console=output)
    release = RELEASES[short]
    assert f"k8s.io/kubernetes {release.kubernetes} " in binaries.kube_apiserver.read_text()
    assert f"k8s.io/kubernetes {release.kubernetes} " in binaries.kubectl.read_text()
    assert f"go.etcd.io/etcd/server/v3 {release.etcd} " in binaries.etcd.read_text()


def test_modules_are_pinned_for_the_releases_of_the_table_only() -> None:
    pinned = {path.parent.relative_to(MODULES).as_posix() for path in MODULES.rglob("go.mod")}
    assert pinned == {
        folder
        for release in RELEASES.values()
        for folder in (f"kubernetes/{release.kubernetes}", f"etcd/{release.etcd}")
    }


def test_server_that_never_accepts_is_given_up_after_the_connect_timeout(
    monkeypatch: pytest.MonkeyPatch, output: Console
) -> None:
    # A documentation address (RFC 5737): packets get lost, or the network refuses them at once.
    monkeypatch.setenv("MANAGED_SESSIONS_KUBERNETES_DOWNLOAD_URL", "http://192.0.2.1")
    monkeypatch.setenv("MANAGED_SESSIONS_DOWNLOAD_CONNECT_SECONDS", "0.3")
    started = time.monotonic()
    with pytest.raises(BinariesUnavailableError, match=r"192\.0\.2\.1 cannot be reached"):
        resolve_binaries(console=output)
    assert time.monotonic() - started < 20, "a system's own limit is minutes"


def test_version_that_is_neither_published_nor_pinned_is_explained(output: Console) -> None:
    with pytest.raises(BinariesUnavailableError) as caught:
        resolve_binaries(console=output)
    assert "answers 404" in str(caught.value)
    assert f"Kubernetes {UNPINNED} can only be downloaded" in str(caught.value)
    assert "KUBEBUILDER_ASSETS" in str(caught.value)


def test_missing_go_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Console
) -> None:
    monkeypatch.delenv("MANAGED_SESSIONS_KUBERNETES_VERSION")
    unreachable(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BinariesUnavailableError, match=r"install Go 1\.26 or newer") as caught:
        resolve_binaries(console=output)
    assert "\n" not in str(caught.value)


def test_failed_build_shows_the_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Console
) -> None:
    monkeypatch.delenv("MANAGED_SESSIONS_KUBERNETES_VERSION")
    unreachable(monkeypatch)
    make_go(tmp_path / "go", "echo this module cannot be had >&2; exit 3", monkeypatch)
    with pytest.raises(BinariesUnavailableError, match=r"building etcd .* failed") as caught:
        resolve_binaries(console=output)
    assert "this module cannot be had" in str(caught.value)


def test_concurrent_callers_prepare_the_cache_once(releases: Releases, output: Console) -> None:
    releases.publish(UNPINNED)
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(resolve_binaries(console=output).folder))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [ControlPlaneSettings().cache_folder] * 4


def test_invalid_version_is_refused_by_the_name_of_its_setting(
    monkeypatch: pytest.MonkeyPatch, output: Console
) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_KUBERNETES_VERSION", "latest")
    with pytest.raises(BinariesUnavailableError, match=r"^MANAGED_SESSIONS_KUBERNETES_VERSION: .*'latest'"):
        resolve_binaries(console=output)


def test_short_version_names_the_release_of_the_table_and_its_etcd(
    monkeypatch: pytest.MonkeyPatch, releases: Releases, output: Console
) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_KUBERNETES_VERSION", "1.32")
    releases.publish(RELEASES["1.32"].kubernetes, RELEASES["1.32"].etcd)
    binaries = resolve_binaries(console=output)
    assert binaries.kubectl.read_text() == f"kubectl {RELEASES['1.32'].kubernetes}"
    assert "-etcd-v3.5." in binaries.folder.name


def test_unknown_short_version_is_refused_with_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch, output: Console
) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_KUBERNETES_VERSION", "1.31")
    with pytest.raises(BinariesUnavailableError, match=r"name one of 1\.32, .*, 1\.37, or an exact version"):
        resolve_binaries(console=output)


def test_version_may_lack_its_v(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGED_SESSIONS_KUBERNETES_VERSION", "1.30.1")
    assert ControlPlaneSettings().kubernetes_version == "v1.30.1"
