"""File operations, run by the sandbox's first process, so that paths and links have their meaning inside."""

import grp
import os
import pwd
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_FILE: Final = "FILE_TYPE_FILE"
_DIRECTORY: Final = "FILE_TYPE_DIRECTORY"
_OTHER: Final = "FILE_TYPE_UNSPECIFIED"
_Answer = tuple[dict[str, Any], list[int]]


def _describe(path: Path) -> dict[str, Any]:
    link = path.lstat()
    target = None
    status = link
    if stat.S_ISLNK(link.st_mode):
        target = os.path.realpath(path)
        with suppress(OSError):
            status = path.stat()
    kind = _FILE if stat.S_ISREG(status.st_mode) else _DIRECTORY if stat.S_ISDIR(status.st_mode) else _OTHER
    entry: dict[str, Any] = {
        "name": path.name,
        "type": kind,
        "path": str(path),
        "size": str(status.st_size),
        "mode": stat.S_IMODE(status.st_mode),
        "permissions": stat.filemode(status.st_mode),
        "owner": _user_name(status.st_uid),
        "group": _group_name(status.st_gid),
        "mtime": status.st_mtime,
    }
    if target is not None:
        entry["symlinkTarget"] = target
    return entry


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _make_directories(path: Path, user: int, privileged: bool) -> None:
    missing = []
    current = path
    while not current.exists():
        missing.append(current)
        current = current.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
        if privileged:
            os.chown(directory, user, user)
    if not path.is_dir():
        raise NotADirectoryError(20, "path is a file", str(path))


def _list(path: Path, depth: int) -> list[dict[str, Any]]:
    if not path.is_dir():
        raise NotADirectoryError(20, f"path is not a directory: {path}")
    entries = []
    for child in sorted(path.iterdir()):
        entries.append(_describe(child))
        if depth > 1 and child.is_dir() and not child.is_symlink():
            entries.extend(_list(child, depth - 1))
    return entries


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_for_writing(path: Path, user: int, privileged: bool) -> int:
    if path.is_dir():
        raise IsADirectoryError(21, f"path is a directory: {path}")
    _make_directories(path.parent, user, privileged)
    if path.exists():
        # Without O_CREAT, which fs.protected_regular forbids even to root for others' files in a /tmp.
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    else:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    if privileged:
        # As envd 0.6.13 does, writing gives even an existing file to the requesting user.
        os.fchown(descriptor, user, user)
    return descriptor


def _read(path: Path) -> _Answer:
    if path.is_dir():
        raise IsADirectoryError(21, f"path '{path}' is a directory")
    return {"size": path.stat().st_size}, [os.open(path, os.O_RDONLY | os.O_CLOEXEC)]


def _move(path: Path, destination: Path, user: int, privileged: bool) -> _Answer:
    path.lstat()
    _make_directories(destination.parent, user, privileged)
    path.rename(destination)
    return {"entry": _describe(destination)}, []


def _make_directory(path: Path, user: int, privileged: bool) -> _Answer:
    if path.is_dir():
        raise FileExistsError(17, f"directory already exists: {path}")
    _make_directories(path, user, privileged)
    return {"entry": _describe(path)}, []


def _remove_all(paths: list[Path]) -> _Answer:
    for path in paths:
        _remove(path)
    return {}, []


def perform(request: dict[str, Any], privileged: bool) -> _Answer:
    """Run a file operation. Return (reply, descriptors for the simulator). Raises OSError, KeyError."""
    path = Path(os.path.normpath(request["path"]))
    user = int(request.get("user", 0))
    actions: dict[str, Callable[[], _Answer]] = {
        "read": lambda: _read(path),
        "write": lambda: ({"entry": {"path": str(path)}}, [_open_for_writing(path, user, privileged)]),
        "stat": lambda: ({"entry": _describe(path)}, []),
        "list": lambda: ({"entries": _list(path, int(request.get("depth", 1)))}, []),
        "make_directory": lambda: _make_directory(path, user, privileged),
        "move": lambda: _move(path, Path(os.path.normpath(request["destination"])), user, privileged),
        "remove": lambda: _remove_all([path]),
        "empty": lambda: _remove_all(list(path.iterdir())),
    }
    return actions[request["action"]]()
