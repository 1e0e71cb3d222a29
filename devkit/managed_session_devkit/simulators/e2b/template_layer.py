"""The COPY step of a template build: copies files of an uploaded archive into the template's layer.

As in E2B, the archive is unpacked elsewhere first. Then a file or link is moved to the target path, or into
it if that ends with a slash, and a directory's contents are merged into it. Only copied entries change their
owner.
"""

import os
import shutil
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from managed_session_devkit.simulators.e2b.namespace.root import USER_ID

_READ_ONLY_TREES: Final = ("usr", "bin", "sbin", "lib", "lib64", "proc", "dev", "sys")


_SHARED_ENTRIES: Final = 300


class CopyError(Exception):
    """A step cannot be done. The text says why."""


def shared_trees(layer: Path) -> tuple[str, ...]:
    """Return the directories in /opt that only root may write, and too large to copy for each sandbox."""
    return tuple(
        f"/{directory.relative_to(layer)}"
        for directory in sorted(layer.glob("opt/*/*"))
        if directory.is_dir()
        and not directory.is_symlink()
        and not directory.stat().st_mode & 0o022
        and sum(len(names) + len(files) for _, names, files in os.walk(directory)) >= _SHARED_ENTRIES
    )


def apply_copy(archive: Path, layer: Path, arguments: list[str], user: str, directory: str) -> None:
    """Run `COPY source target [owner] [mode]`. Raises CopyError."""
    if len(arguments) < 2:
        raise CopyError("COPY requires a local path and a container path argument")
    source, target = arguments[0], arguments[1]
    owner = (arguments[2] if len(arguments) > 2 and arguments[2] else user).partition(":")[0]
    mode = int(arguments[3], 8) if len(arguments) > 3 and arguments[3] else None
    into_directory = target.endswith("/")
    absolute = os.path.normpath(Path(directory) / target)
    if Path(absolute).parts[1:2] and Path(absolute).parts[1] in _READ_ONLY_TREES:
        raise CopyError(
            f"COPY to {absolute} is not possible here: this tree is the host's, read-only, in the simulator"
        )
    destination = layer / absolute.lstrip("/")
    with tempfile.TemporaryDirectory(dir=layer.parent) as unpacked:
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "tar_filter"):  # Python 3.11.4
                tar.extraction_filter = tarfile.tar_filter
            tar.extractall(unpacked)  # noqa: S202 - the archive is this simulator's own user's
        entry = Path(os.path.normpath(Path(unpacked) / _without_pattern(source)))
        if not entry.is_symlink() and not entry.exists():
            raise CopyError(f"source path does not exist: {source}")
        _prepare(entry, owner, mode)
        if entry.is_dir() and not entry.is_symlink():
            _merge(entry, destination)
        else:
            if into_directory:
                destination = destination / entry.name
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.unlink(missing_ok=True)
            shutil.move(entry, destination)


def _without_pattern(source: str) -> str:
    parts = []
    for part in Path(source).parts:
        if set(part) & set("*?[{"):
            break
        parts.append(part)
    return str(Path(*parts)) if parts else "."


def _prepare(entry: Path, owner: str, mode: int | None) -> None:
    number = {"root": 0}.get(owner, USER_ID)
    inside = entry.rglob("*") if entry.is_dir() and not entry.is_symlink() else ()
    for path in [entry, *inside]:
        with suppress(OSError):  # an ordinary user owns all files, and cannot give them away
            os.chown(path, number, number, follow_symlinks=False)
        if mode is not None and not path.is_symlink():
            path.chmod(mode)


def _merge(source: Path, destination: Path) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        target = destination / entry.name
        if entry.is_dir() and not entry.is_symlink():
            if target.is_symlink() or (target.exists() and not target.is_dir()):
                target.unlink()
            existed = target.is_dir()
            _merge(entry, target)
            if not existed:
                _copy_identity(entry, target)
        else:
            if target.is_symlink() or target.exists():
                target.unlink()
            shutil.move(entry, target)


def _copy_identity(source: Path, target: Path) -> None:
    status = source.stat()
    target.chmod(status.st_mode & 0o7777)
    with suppress(OSError):
        os.chown(target, status.st_uid, status.st_gid)
