"""The Helm that tests run: HELM names it, or it is built from the Go modules that `helm/` pins.

`python -m tests.support.helm_program` (`make helm`) prints its path, and builds it if it is not there yet.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import platformdirs
from filelock import FileLock

MODULES = Path(__file__).parent / "helm"
BUILD_SECONDS = 1200
RUN_SECONDS = 240


@cache
def helm_program() -> str:
    """The path of Helm.

    A build takes a minute of processor time where kubectl was built before, and several elsewhere.
    """
    if named := os.environ.get("HELM"):
        return named
    sources = b"".join(path.read_bytes() for path in sorted(MODULES.iterdir()))
    folder = platformdirs.user_cache_path("managed-sessions", ensure_exists=True) / "helm"
    program = folder / hashlib.sha256(sources).hexdigest()[:16] / "helm"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not program.exists():
            _build(program)
    return str(program)


def _build(program: Path) -> None:
    go = shutil.which("go")
    assert go, "the tests of the chart need Helm 4: name it in HELM, or install Go 1.26 to build it"
    program.parent.mkdir(exist_ok=True)
    unfinished = program.with_suffix(".new")
    # The same flags as for kubectl: they are part of the key of Go's build cache.
    flags = ["-mod=readonly", "-trimpath", "-ldflags", "-s -w"]
    done = subprocess.run(
        [go, "build", *flags, "-o", str(unfinished), "helm.sh/helm/v4/cmd/helm"],
        cwd=MODULES,
        env=os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
        preexec_fn=lambda: os.nice(10),
    )
    assert done.returncode == 0, f"the build of Helm failed: {done.stdout[-2000:]}"
    unfinished.replace(program)


def run_helm(*arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm with a home of its own: no settings, plugins or cached charts of this machine."""
    with tempfile.TemporaryDirectory() as home:
        cluster = {"KUBECONFIG": str(kubeconfig) if kubeconfig is not None else os.devnull}
        return subprocess.run(
            [helm_program(), *arguments],
            env={"PATH": os.environ["PATH"], "HOME": home, **cluster},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )


if __name__ == "__main__":
    print(helm_program())
