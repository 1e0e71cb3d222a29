"""Downloads the official kube-apiserver, kubectl and etcd, and checks their published SHA-256.

Kubernetes publishes `<file>.sha256` beside every binary
(https://kubernetes.io/docs/tasks/tools/install-kubectl-linux/); an etcd release holds one SHA256SUMS for all
its archives (https://github.com/etcd-io/etcd/releases).
"""

import hashlib
import re
import tarfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from managed_session_devkit.control_plane.errors import BinariesUnavailableError, SourceUnavailableError
from managed_session_devkit.control_plane.settings import (
    ControlPlaneSettings,
    architecture,
    operating_system,
)

_READ_SECONDS = 30.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


def download(folder: Path, settings: ControlPlaneSettings, console: Console) -> None:
    """Download the three binaries into `folder`.

    Raises:
        SourceUnavailableError: there is no release for this platform, or no server that can be reached has
            it.
        BinariesUnavailableError: a file does not match its published checksum, and was removed.
    """
    if operating_system() != "linux":
        raise SourceUnavailableError("Kubernetes publishes kube-apiserver for Linux only")
    arch = architecture()
    versions = settings.release
    timeout = httpx.Timeout(_READ_SECONDS, connect=settings.download_connect_seconds)
    with httpx.Client(timeout=timeout, follow_redirects=True) as client:
        base = f"{settings.kubernetes_download_url.rstrip('/')}/{versions.kubernetes}/bin/linux/{arch}"
        names = ("kube-apiserver", "kubectl")
        wanted = {name: _checksum(f"{base}/{name}.sha256", "", timeout) for name in names}
        release = f"{settings.etcd_download_url.rstrip('/')}/{versions.etcd}"
        archive_name = f"etcd-{versions.etcd}-linux-{arch}.tar.gz"
        archive_sum = _checksum(f"{release}/SHA256SUMS", archive_name, timeout)
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        ) as progress:
            for name in names:
                _fetch(client, f"{base}/{name}", folder / name, wanted[name], progress)
                (folder / name).chmod(0o755)
            archive = folder / archive_name
            _fetch(client, f"{release}/{archive_name}", archive, archive_sum, progress)
    _extract(archive, f"{archive_name.removesuffix('.tar.gz')}/etcd", folder / "etcd")
    archive.unlink()


def _checksum(url: str, file_name: str, timeout: httpx.Timeout) -> str:
    """Return the SHA-256 that `url` publishes: either the digest alone, or the line for `file_name`."""
    text = _small_text(url, timeout)
    for line in text.splitlines():
        digest, _, name = line.strip().partition(" ")
        if _SHA256.fullmatch(digest) and name.strip().lstrip("*") == file_name:
            return digest
    raise SourceUnavailableError(
        f"{url} does not answer with a SHA-256 checksum{' of ' + file_name if file_name else ''}"
    )


def _small_text(url: str, timeout: httpx.Timeout) -> str:
    """GET a small text. Give up if there is no connection within the connect timeout.

    This runs in a thread, because a name lookup has no timeout and can hang on a machine without a network.
    """
    connected_or_done = threading.Event()
    outcome: list[httpx.Response | httpx.HTTPError | httpx.InvalidURL] = []

    def trace(event: str, _: object) -> None:
        if event.endswith("connect_tcp.complete"):
            connected_or_done.set()

    def get() -> None:
        try:
            with httpx.Client(timeout=timeout, follow_redirects=True) as client:
                outcome.append(client.get(url, extensions={"trace": trace}))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            outcome.append(error)
        finally:
            connected_or_done.set()

    thread = threading.Thread(target=get, daemon=True, name="control-plane-download")
    thread.start()
    if connected_or_done.wait(timeout.connect):
        thread.join(_READ_SECONDS)
    result = outcome[0] if outcome else httpx.ConnectTimeout("no connection in time")
    if not isinstance(result, httpx.Response):
        raise SourceUnavailableError(f"{urlsplit(url).netloc or url} cannot be reached ({_reason(result)})")
    if result.status_code != httpx.codes.OK:
        raise SourceUnavailableError(f"{url} answers {result.status_code}")
    return result.text


def _fetch(client: httpx.Client, url: str, target: Path, sha256: str, progress: Progress) -> None:
    task = progress.add_task(f"Downloading {target.name}", total=None)
    digest = hashlib.sha256()
    try:
        with client.stream("GET", url) as response, target.open("wb") as file:
            if response.status_code != httpx.codes.OK:
                raise SourceUnavailableError(f"{url} answers {response.status_code}")
            length = response.headers.get("content-length", "")
            progress.update(task, total=int(length) if length.isdigit() else None)
            for chunk in response.iter_bytes(1 << 20):
                digest.update(chunk)
                file.write(chunk)
                progress.update(task, advance=len(chunk))
    except httpx.HTTPError as error:
        raise SourceUnavailableError(f"the download of {url} broke off ({_reason(error)})") from error
    if digest.hexdigest() != sha256:
        target.unlink()
        raise BinariesUnavailableError(
            f"{url} does not match its published checksum (SHA-256 {digest.hexdigest()}, "
            f"published {sha256}), so it was not used. Try again. If this repeats, something on the way from "
            "the server changes files"
        )


def _extract(archive: Path, member: str, target: Path) -> None:
    with tarfile.open(archive, "r:gz") as tar:
        try:
            source = tar.extractfile(member)
        except KeyError:
            source = None
        if source is None:
            raise SourceUnavailableError(f"{archive.name} holds no {member}")
        with source, target.open("wb") as file:
            while chunk := source.read(1 << 20):
                file.write(chunk)
    target.chmod(0o755)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
