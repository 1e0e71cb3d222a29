"""Builds kube-apiserver, kubectl and etcd from the pinned Go modules in `go/` beside this file.

Go verifies every module against go.sum. Do not change the flags without need: they are part of the key of
Go's build cache, which makes a second build take seconds.
"""

import os
import shutil
import signal
import subprocess
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from managed_session_devkit.control_plane.errors import BinariesUnavailableError, SourceUnavailableError
from managed_session_devkit.control_plane.processes import dying_with_this_process
from managed_session_devkit.control_plane.releases import RELEASES, Release
from managed_session_devkit.control_plane.settings import (
    ControlPlaneSettings,
    architecture,
    operating_system,
)

MODULES = Path(__file__).parent / "go"
"""Has a folder `<kubernetes or etcd>/<version>` with go.mod and go.sum for each pinned release."""

TOOLS = {
    "etcd": {"etcd": "go.etcd.io/etcd/server/v3"},
    "kubernetes": {name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kube-apiserver", "kubectl")},
}
"""The package of each binary."""

_FAILURE_LINES = 15


@dataclass(frozen=True)
class _Command:
    binary: str
    package: str
    folder: Path
    version: str
    stamp: str = ""


def _commands(release: Release) -> list[_Command]:
    major, minor, _ = release.kubernetes.removeprefix("v").split(".")
    values = {"gitVersion": release.kubernetes, "gitMajor": major, "gitMinor": minor}
    stamp = "".join(f" -X k8s.io/component-base/version.{name}={value}" for name, value in values.items())
    return [
        _Command(
            binary, package, MODULES / source / version, version, stamp if source == "kubernetes" else ""
        )
        for source, version in (("etcd", release.etcd), ("kubernetes", release.kubernetes))
        for binary, package in TOOLS[source].items()
    ]


def build(folder: Path, settings: ControlPlaneSettings, console: Console) -> None:
    """Build the three binaries into `folder`.

    On two cores the first build of a release takes about six minutes, later ones seconds.

    Raises:
        SourceUnavailableError: Go is not installed, or the requested version is not pinned.
        BinariesUnavailableError: the build failed; the text has Go's last lines.
    """
    release = settings.release
    if release not in RELEASES.values():
        pinned = ", ".join(each.kubernetes for each in RELEASES.values())
        raise SourceUnavailableError(
            f"Kubernetes {release.kubernetes} can only be downloaded: the Go modules here pin {pinned} "
            "(MANAGED_SESSIONS_KUBERNETES_VERSION chooses one of them)"
        )
    go = shutil.which("go")
    if go is None:
        raise SourceUnavailableError(
            "to build them from source, install Go 1.26 or newer (https://go.dev/dl/) so that `go` is on PATH"
        )
    console.print(
        f"Building Kubernetes {release.kubernetes} and etcd {release.etcd} from Go modules: "
        "some minutes the first time, seconds later",
        highlight=False,
        soft_wrap=True,
    )
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[packages]} packages compiled"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        for command in _commands(release):
            _run(go, command, folder / command.binary, progress)


def _run(go: str, command: _Command, target: Path, progress: Progress) -> None:
    task = progress.add_task(f"Building {command.binary} {command.version}", total=1, packages=0)
    # With an active go.work or another target platform, Go would silently build something else.
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GOWORK": "off",
        "GOOS": operating_system(),
        "GOARCH": architecture(),
    }
    arguments = [go, "build", "-v", "-mod=readonly", "-trimpath", "-ldflags", f"-s -w{command.stamp}"]
    process = subprocess.Popen(  # noqa: S603 - the command is ours
        [*dying_with_this_process(), *arguments, "-o", str(target), command.package],
        cwd=command.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    last_lines: deque[str] = deque(maxlen=_FAILURE_LINES)
    try:
        assert process.stdout is not None
        packages = 0
        for line in process.stdout:
            last_lines.append(line.rstrip())
            # With -v Go prints the bare import path of each package that it compiles.
            if " " not in line.strip():
                packages += 1
                progress.update(task, packages=packages)
        code = process.wait()
    finally:
        with suppress(ProcessLookupError):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code != 0:
        raise BinariesUnavailableError(
            f"building {command.binary} {command.version} failed (go exited with {code}; it needs "
            "Go 1.26 or newer and a Go module proxy that can be reached). Last lines:\n"
            + "\n".join(last_lines)
        )
    progress.update(task, completed=1)
