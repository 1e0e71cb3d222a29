"""Programs of Debian packages, unpacked into the user's cache. Nothing is installed, and no daemon starts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import platformdirs
from filelock import FileLock

GET_SECONDS = 180


def unpacked(name: str, *packages: str) -> Path:
    """The folder with the unpacked packages, which are downloaded once.

    Args:
        name: of the folder in the cache.
        packages: the packages; that of the name by default.
    """
    kept = platformdirs.user_cache_path("managed-sessions", ensure_exists=True) / name
    done = kept / ".unpacked"
    with FileLock(f"{kept}.lock"):
        if not done.exists():
            _unpack(kept, packages or (name,))
            done.touch()
    return kept


def _unpack(target: Path, packages: tuple[str, ...]) -> None:
    assert shutil.which("apt-get"), f"there is no {packages[0]}: install it so that it is on PATH"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    download = ["apt-get", "download", *packages]
    if run(download, target).returncode != 0:
        run(["apt-get", "update", "--quiet=2"], target)
        downloaded = run(download, target)
        assert downloaded.returncode == 0, downloaded.stdout
    for package in target.glob("*.deb"):
        extracted = run(["dpkg-deb", "--extract", str(package), str(target)], target)
        assert extracted.returncode == 0, extracted.stdout
        package.unlink()


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in the folder, with standard error in its output."""
    return subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=GET_SECONDS,
    )
