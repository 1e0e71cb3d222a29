"""Programs that only tests run, built from the Go modules that `go/` pins: Helm and actionlint.

`python -m tests.support.go_programs helm` (`make helm`) prints where one is, and builds it if it is missing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import platformdirs
from filelock import FileLock

MODULES = Path(__file__).parent / "go"
PACKAGES = {
    # A minute of processor time where kubectl was built before, and several elsewhere.
    "helm": "helm.sh/helm/v4/cmd/helm",
    # Seconds.
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint",
}
BUILD_SECONDS = 1200
RUN_SECONDS = 240


@cache
def go_program(name: str) -> str:
    """The path of a program: what the variable of its name says, such as HELM, or what is built here."""
    if named := os.environ.get(name.upper()):
        return named
    sources = b"".join(path.read_bytes() for path in sorted((MODULES / name).iterdir()))
    folder = platformdirs.user_cache_path("managed-sessions", ensure_exists=True) / name
    program = folder / hashlib.sha256(sources).hexdigest()[:16] / name
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not program.exists():
            _build(name, program)
    return str(program)


def _build(name: str, program: Path) -> None:
    go = shutil.which("go")
    assert go, f"these tests need {name}: name it in {name.upper()}, or install Go 1.26 to build it"
    program.parent.mkdir(exist_ok=True)
    unfinished = program.with_suffix(".new")
    # The same flags as for kubectl: they are part of the key of Go's build cache.
    flags = ["-mod=readonly", "-trimpath", "-ldflags", "-s -w"]
    done = subprocess.run(
        ["nice", go, "build", *flags, "-o", str(unfinished), PACKAGES[name]],
        cwd=MODULES / name,
        env=os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
    )
    assert done.returncode == 0, f"the build of {name} failed: {done.stdout[-2000:]}"
    unfinished.replace(program)


def run_helm(*arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm with a home of its own: no settings, plugins or cached charts of this machine."""
    with tempfile.TemporaryDirectory() as home:
        cluster = {"KUBECONFIG": str(kubeconfig) if kubeconfig is not None else os.devnull}
        return subprocess.run(
            [go_program("helm"), *arguments],
            env={"PATH": os.environ["PATH"], "HOME": home, **cluster},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )


if __name__ == "__main__":
    print(go_program(sys.argv[1]))
