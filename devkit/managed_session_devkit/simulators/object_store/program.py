"""Builds the server from the pinned Go modules in `go/` beside this file, once per user."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import platformdirs
from filelock import FileLock

SOURCES = Path(__file__).parent / "go"
BUILD_SECONDS = 600


class UnavailableError(Exception):
    """The server cannot be built here. The text says why."""


def program() -> Path:
    """Return the server's program, built if this version of it is not there yet.

    The first build takes about half a minute on two cores. Go verifies each module against go.sum.

    Raises:
        UnavailableError: there is no Go, or no module proxy.
    """
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    folder = platformdirs.user_cache_path("managed-sessions") / "object-store"
    built = folder / digest.hexdigest()[:16]
    if built.exists():
        return built
    go = shutil.which("go")
    if go is None:
        raise UnavailableError("install Go 1.24 or newer so that `go` is on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not built.exists():
            _build(go, built)
    return built


def _build(go: str, target: Path) -> None:
    unfinished = target.with_suffix(".new")
    finished = subprocess.run(  # noqa: S603 - our own sources
        [go, "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", str(unfinished), "."],
        cwd=SOURCES,
        env=os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if finished.returncode != 0:
        raise UnavailableError(f"the build of the S3 server failed: {finished.stdout[-2000:]}")
    unfinished.replace(target)
