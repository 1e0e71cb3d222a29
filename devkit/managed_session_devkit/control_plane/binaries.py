"""Finds or prepares the binaries of a control plane: kube-apiserver, etcd and kubectl.

Looks in this order: the folder that KUBEBUILDER_ASSETS names, the user's cache, the official releases, and a
build from pinned Go modules. Downloads and builds go to the cache.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError
from rich.console import Console

from managed_session_devkit.control_plane import go_build, release_download
from managed_session_devkit.control_plane.errors import BinariesUnavailableError, SourceUnavailableError
from managed_session_devkit.control_plane.settings import ControlPlaneSettings

BINARY_NAMES = ("kube-apiserver", "etcd", "kubectl")


@dataclass(frozen=True)
class ControlPlaneBinaries:
    """A folder that holds kube-apiserver, etcd and kubectl."""

    folder: Path

    @property
    def kube_apiserver(self) -> Path:
        """Path of kube-apiserver."""
        return self.folder / "kube-apiserver"

    @property
    def etcd(self) -> Path:
        """Path of etcd."""
        return self.folder / "etcd"

    @property
    def kubectl(self) -> Path:
        """Path of kubectl."""
        return self.folder / "kubectl"


def resolve_binaries(
    settings: ControlPlaneSettings | None = None, console: Console | None = None
) -> ControlPlaneBinaries:
    """Return the control plane's binaries. The first call downloads about 200 MB, or builds for minutes.

    Several processes may call this at once: one prepares the cache, and the others wait. It blocks, so call
    it before an event loop starts, or in a thread. Progress goes to `console`, by default standard error.

    Raises:
        BinariesUnavailableError: a setting is invalid, KUBEBUILDER_ASSETS names a folder without them, a
            download does not match its published checksum, or no source is available.
    """
    settings = settings or _settings_from_environment()
    console = console or Console(stderr=True)
    if settings.kubebuilder_assets is not None:
        return _from_assets_folder(settings.kubebuilder_assets)
    folder = settings.cache_folder
    if not _missing(folder):
        return ControlPlaneBinaries(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder, console):
        # Another process may have filled the folder while this one waited.
        if _missing(folder):
            _fill(folder, settings, console)
    return ControlPlaneBinaries(folder)


def _settings_from_environment() -> ControlPlaneSettings:
    try:
        return ControlPlaneSettings()
    except ValidationError as invalid:
        problems = (
            f"MANAGED_SESSIONS_{error['loc'][0]!s}".upper() + f": {error['msg']}, got {error['input']!r}"
            for error in invalid.errors()
        )
        raise BinariesUnavailableError("; ".join(problems)) from invalid


def _from_assets_folder(named: Path) -> ControlPlaneBinaries:
    folder = named.expanduser().absolute()
    missing = _missing(folder)
    if missing:
        raise BinariesUnavailableError(
            f"KUBEBUILDER_ASSETS is {folder}, which has no executable {', '.join(missing)}; "
            "point it at a folder with kube-apiserver, etcd and kubectl, or unset it"
        )
    return ControlPlaneBinaries(folder)


def _missing(folder: Path) -> list[str]:
    return [
        name for name in BINARY_NAMES if not ((folder / name).is_file() and os.access(folder / name, os.X_OK))
    ]


@contextmanager
def _locked(folder: Path, console: Console) -> Iterator[None]:
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        console.print(
            "Waiting for another process, which prepares the control plane's binaries", highlight=False
        )
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fill(folder: Path, settings: ControlPlaneSettings, console: Console) -> None:
    prefix = f".{folder.name}-"
    for left_over in folder.parent.glob(f"{prefix}*"):
        # Only the holder of the lock makes such folders, so a killed process has left this one.
        shutil.rmtree(left_over, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        _fetch_or_build(staging, settings, console)
        staging.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fetch_or_build(staging: Path, settings: ControlPlaneSettings, console: Console) -> None:
    reasons: list[str] = []
    for source in (release_download.download, go_build.build):
        if reasons:
            console.print(reasons[-1], style="dim", markup=False, highlight=False, soft_wrap=True)
        try:
            source(staging, settings, console)
            return
        except SourceUnavailableError as unavailable:
            reasons.append(str(unavailable))
            for left_over in staging.iterdir():
                left_over.unlink()
    raise BinariesUnavailableError(
        f"no kube-apiserver, etcd and kubectl for Kubernetes {settings.kubernetes_version}: "
        + "; ".join(reasons)
        + "; or set KUBEBUILDER_ASSETS to a folder that has them"
    )
