"""Unpacks skills inside a sandbox. Runs there with `python3 -c` and needs only the standard library.

It runs as the user of the agent's commands, so an archive can do no more than the agent. Names, modes and
skipped entries are those of Anthropic's own worker (anthropic.lib.tools._skills): a single top-level
directory is stripped, files are 0755 or 0644, links and devices are skipped, and an archive with a path
outside its directory is rejected. The limits are ours.

The argument is a JSON object:

    {"root": "/mnt/session/skills", "remove": [directory, …], "maxBytes": …, "maxFiles": …, "seconds": …,
     "skills": [{"key": …, "directory": …, "parts": folder, "replaces": directory or null}, …]}

The last line of the output is `{"refused": {key: why}}`.
"""

import json
import os
import resource
import shutil
import signal
import stat
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any

DIRECTORY_MODE = 0o700
ASIDE = ".skill-"
STALE_SECONDS = 600
MEMORY_BYTES = 400 * 1024 * 1024
"""Enough for any decompressor, and less than the smallest sandbox has."""
COPY_BYTES = 256 * 1024
UNIX_HOSTS = (3, 19)
SPECIAL_TYPES = (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)


class RefusedError(Exception):
    """The archive is rejected. The text says why."""


class Bounds:
    """What remains of an archive's limits."""

    def __init__(self, most_bytes: int, most_files: int) -> None:
        self._most_bytes, self._most_files = most_bytes, most_files
        self._bytes = self._files = self._announced = 0

    def entry(self, size: int) -> None:
        """Count an entry with this declared size. Raises RefusedError."""
        self._files += 1
        self._announced += max(0, size)
        if self._files > self._most_files:
            raise RefusedError(f"it has more than {self._most_files} files")
        self._hold(self._announced)

    def written(self, size: int) -> None:
        """Count unpacked bytes. Raises RefusedError."""
        self._bytes += size
        self._hold(self._bytes)

    def _hold(self, size: int) -> None:
        if size > self._most_bytes:
            raise RefusedError(f"it unpacks to more than {self._most_bytes} bytes")


def safe_name(name: str) -> str:
    """Return the path within the skill; empty for the skill itself. Raises RefusedError."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = [part for part in path.parts if part != "."]
    if path.is_absolute() or ".." in parts:
        raise RefusedError(f"it contains a path outside its directory: {name!r:.100}")
    return str(PurePosixPath(*parts)) if parts else ""


def wrapper(names: Iterable[str]) -> str:
    """Return the single top-level directory, or an empty string."""
    paths = [PurePosixPath(name).parts for name in names if name]
    tops = {parts[0] for parts in paths}
    nested = any(len(parts) > 1 for parts in paths)
    return tops.pop() if len(tops) == 1 and nested else ""


class Target:
    """Directory into which an archive is unpacked."""

    def __init__(self, root: Path, top: str, bounds: Bounds) -> None:
        self._root, self._top, self._bounds = root, top, bounds

    def put(self, name: str, mode: int, content: Callable[[], IO[bytes]] | None) -> None:
        """Create an entry: a directory, or a file with this content."""
        parts = PurePosixPath(name).parts
        if self._top and parts[:1] == (self._top,):
            parts = parts[1:]
        if not parts:
            return
        path = self._root.joinpath(*parts)
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with content() as source, path.open("wb") as file:
            while chunk := source.read(COPY_BYTES):
                self._bounds.written(len(chunk))
                file.write(chunk)
        path.chmod(0o755 if mode & 0o111 else 0o644)


def unpack_zip(archive: Path, root: Path, bounds: Bounds) -> None:
    """Unpack a zip archive into an empty directory."""
    with zipfile.ZipFile(archive) as file:
        entries = []
        for info in file.infolist():
            name, mode = safe_name(info.filename), info.external_attr >> 16
            bounds.entry(info.file_size)
            kind = stat.S_IFMT(mode) if info.create_system in UNIX_HOSTS else 0
            if kind not in SPECIAL_TYPES:
                entries.append((info, name, mode, info.is_dir() or kind == stat.S_IFDIR))
        target = Target(root, wrapper(name for _, name, _, _ in entries), bounds)
        for info, name, mode, is_directory in entries:
            target.put(name, mode, None if is_directory else lambda info=info: file.open(info))  # type: ignore[misc]


def unpack_tar(archive: Path, root: Path, bounds: Bounds) -> None:
    """Unpack a tar archive, compressed or not, into an empty directory."""
    with tarfile.open(archive, "r:*") as file:
        entries = []
        for member in file:
            name = safe_name(member.name)
            bounds.entry(member.size)
            if member.isreg() or member.isdir():
                entries.append((member, name))
        target = Target(root, wrapper(name for _, name in entries), bounds)
        for member, name in entries:
            content = None if member.isdir() else lambda member=member: file.extractfile(member)
            target.put(name, member.mode, content)  # type: ignore[arg-type]


def install(root: Path, skill: dict[str, Any], bounds: Bounds) -> None:
    """Unpack a skill into a temporary directory, then move it into place. A bad archive raises any error."""
    directory = str(skill["directory"])
    if directory in ("", ".", "..") or "/" in directory or "\0" in directory:
        raise RefusedError("its name is not a valid directory name")
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=root))
    try:
        archive, stage = aside / "archive", aside / "stage"
        with archive.open("wb") as whole:
            for part in sorted(Path(skill["parts"]).iterdir()):
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole, COPY_BYTES)
        stage.mkdir(mode=DIRECTORY_MODE)
        (unpack_zip if zipfile.is_zipfile(archive) else unpack_tar)(archive, stage, bounds)
        take_place(stage, root / directory, aside / "replaced")
        remove(root, skill["replaces"])
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def take_place(stage: Path, place: Path, replaced: Path) -> None:
    """Move a directory into place, and what was there out of the way."""
    occupied = place.is_symlink() or place.exists()
    if occupied:
        place.rename(replaced)
    try:
        stage.rename(place)
    except OSError:
        if occupied:
            replaced.rename(place)
        raise


def why_not(error: BaseException) -> str:
    """Explain why an archive was not unpacked."""
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, MemoryError):
        return "unpacking it needs too much memory"
    if isinstance(error, OSError):
        return f"it could not be unpacked: {error.strerror or error}"
    return f"it is not a readable archive ({type(error).__name__})"


def remove(root: Path, name: str | None) -> None:
    """Delete a skill."""
    if name and "/" not in name and name not in (".", ".."):
        shutil.rmtree(root / name, ignore_errors=True)


def clear(root: Path, names: list[str]) -> None:
    """Delete skills that the agent no longer has, and remains of interrupted runs."""
    for name in names:
        remove(root, name)
    for aside in root.glob(f"{ASIDE}*"):
        if aside.lstat().st_mtime < time.time() - STALE_SECONDS:
            shutil.rmtree(aside, ignore_errors=True)


def overdue(_number: int, _frame: object) -> None:
    """Abort a run that takes too long."""
    raise RefusedError("unpacking it takes too long")


def main(argument: str) -> int:
    """Carry out the request in `argument`. Returns the exit code."""
    request = json.loads(argument)
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, overdue)
    refused = {}
    root = Path(request["root"])
    try:
        root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        root = root.resolve()
        clear(root, request["remove"])
    except OSError as error:
        refused = {skill["key"]: why_not(error) for skill in request["skills"]}
    for skill in request["skills"] if not refused else ():
        try:
            signal.alarm(request["seconds"])
            install(root, skill, Bounds(request["maxBytes"], request["maxFiles"]))
        except Exception as error:  # noqa: BLE001 - a bad archive may raise any error; unpack the others
            refused[skill["key"]] = why_not(error)
        finally:
            signal.alarm(0)
    print(json.dumps({"refused": refused}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
