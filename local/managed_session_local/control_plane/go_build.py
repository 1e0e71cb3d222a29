"""Build kube-apiserver, kubectl and etcd from the pinned Go modules in `go/` beside this file.

Go verifies every module against go.sum. The flags are part of the key of Go's build cache: kept as they are,
a second build on one machine takes seconds.
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

from managed_session_local.control_plane.errors import BinariesUnavailableError, SourceUnavailableError
from managed_session_local.control_plane.processes import dying_with_this_process
from managed_session_local.control_plane.settings import (
    ETCD_VERSION,
    PINNED_KUBERNETES_VERSION,
    ControlPlaneSettings,
    architecture,
    operating_system,
)

MODULES = Path(__file__).parent / "go"
_FAILURE_LINES = 15


@dataclass(frozen=True)
class _Command:
    binary: str
    module: str
    package: str
    version: str
    stamp: str = ""


def _commands() -> list[_Command]:
    major, minor, _ = PINNED_KUBERNETES_VERSION.removeprefix("v").split(".")
    values = {"gitVersion": PINNED_KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    stamp = "".join(f" -X k8s.io/component-base/version.{name}={value}" for name, value in values.items())
    return [
        _Command("etcd", "etcd", "go.etcd.io/etcd/server/v3", ETCD_VERSION),
        *(
            _Command(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", PINNED_KUBERNETES_VERSION, stamp)
            for name in ("kube-apiserver", "kubectl")
        ),
    ]


def build(folder: Path, settings: ControlPlaneSettings, console: Console) -> None:
    """Build the three binaries into `folder`: about six minutes the first time on two cores, later seconds.

    Raises:
        SourceUnavailableError: Go is not installed, or another version than the pinned one is asked for.
        BinariesUnavailableError: the build failed; the text has Go's last lines.
    """
    if settings.kubernetes_version != PINNED_KUBERNETES_VERSION:
        raise SourceUnavailableError(
            f"Kubernetes {settings.kubernetes_version} can only be downloaded: the Go modules here pin "
            f"{PINNED_KUBERNETES_VERSION} (unset MANAGED_SESSIONS_KUBERNETES_VERSION to build that)"
        )
    go = shutil.which("go")
    if go is None:
        raise SourceUnavailableError(
            "to build them from source, install Go 1.26 or newer (https://go.dev/dl/) so that `go` is on PATH"
        )
    console.print(
        f"Building Kubernetes {PINNED_KUBERNETES_VERSION} and etcd {ETCD_VERSION} from Go modules: "
        "some minutes the first time, later seconds",
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
        for command in _commands():
            _run(go, command, folder / command.binary, progress)


def _run(go: str, command: _Command, target: Path, progress: Progress) -> None:
    task = progress.add_task(f"Building {command.binary} {command.version}", total=1, packages=0)
    # An active go.work or another target platform would silently build something else.
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GOWORK": "off",
        "GOOS": operating_system(),
        "GOARCH": architecture(),
    }
    arguments = [go, "build", "-v", "-mod=readonly", "-trimpath", "-ldflags", f"-s -w{command.stamp}"]
    process = subprocess.Popen(  # noqa: S603 - the command is ours
        [*dying_with_this_process(), *arguments, "-o", str(target), command.package],
        cwd=MODULES / command.module,
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
