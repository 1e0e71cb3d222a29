"""Finds files that root and the worker run and that others than root could change.

It goes by owners and modes alone. A file is checked with every directory above it, and a link with its
target. On a read-only file system nobody can change anything.
"""

# ruff: noqa: PTH100, PTH112, PTH114, PTH115, PTH118, PTH120, PTH123

import os
import stat

_WORLD, _GROUP, _STICKY = 0o002, 0o020, 0o1000
_FIRST_ORDINARY_ID = 1000
"""Lower numbers are the system's own accounts, which no agent and no person uses (Debian policy, 9.2)."""
_MAX_LINKS = 40
_OVERFLOW_ID = 65534


class PermissionAudit:
    """Checks many paths of one sandbox, each directory once.

    Args:
        root: Paths outside this directory are not checked.
        untrusted: Users and groups that are never trusted, whatever their numbers.

    Attributes:
        findings: One sentence for each path that others than root can change.
    """

    def __init__(self, root: str = "/", untrusted: frozenset[int] = frozenset()) -> None:
        self.findings: list[str] = []
        self._prefix = os.path.join(root, "")
        self._untrusted = untrusted
        self._seen: set[tuple[str, bool]] = set()
        self._read_only: dict[str, bool] = {}
        self._foreign = {kind: _overflow_is_foreign(kind) for kind in ("uid", "gid")}

    def path(self, path: str, *, system: bool = False) -> None:
        """Check one path, if it exists. `system`: trust the operating system's own accounts too."""
        self._check(os.path.abspath(path), system, _MAX_LINKS)

    def tree(self, path: str, *, system: bool = False) -> None:
        """Check a directory and everything in it."""
        path = os.path.abspath(path)
        self.path(path, system=system)
        if not self._inside(path) or os.path.islink(path):
            return
        for directory, names, files in os.walk(path):
            if self._is_read_only(directory):
                names.clear()
                continue
            for name in (*names, *files):
                self._check(f"{directory}/{name}", system, _MAX_LINKS)

    def _check(self, path: str, system: bool, links: int) -> None:
        if not self._inside(path) or (path, system) in self._seen:
            return
        self._seen.add((path, system))
        try:
            found = os.lstat(path)
        except OSError:
            return
        parent = os.path.dirname(path)
        if parent != path:
            self._parent(parent, system)
        if stat.S_ISLNK(found.st_mode):
            if links:
                self._check(os.path.normpath(os.path.join(parent, os.readlink(path))), system, links - 1)
            return
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            return
        if (reason := self._reason(found, system)) and not self._is_read_only(path):
            self.findings.append(f"{path} {reason}")

    def _parent(self, path: str, system: bool) -> None:
        """Check a directory above a path. If it is sticky, nobody can replace root's files in it."""
        if not self._inside(path) or (path, system) in self._seen:
            return
        try:
            found = os.lstat(path)
        except OSError:
            return
        if stat.S_ISDIR(found.st_mode) and found.st_mode & _STICKY and found.st_uid == 0:
            self._parent(os.path.dirname(path), system)
            return
        self._check(path, system, _MAX_LINKS)

    def _inside(self, path: str) -> bool:
        return f"{path}/".startswith(self._prefix)

    def _reason(self, found: os.stat_result, system: bool) -> str | None:
        if not self._trusted(found.st_uid, "uid", system):
            return f"belongs to user {found.st_uid}"
        if found.st_mode & _WORLD:
            return "may be written by everyone"
        if found.st_mode & _GROUP and not self._trusted(found.st_gid, "gid", system):
            return f"may be written by group {found.st_gid}"
        return None

    def _trusted(self, number: int, kind: str, system: bool) -> bool:
        if number in self._untrusted:
            return False
        if number == _OVERFLOW_ID and self._foreign[kind]:
            return True
        return number < _FIRST_ORDINARY_ID if system else number == 0

    def _is_read_only(self, path: str) -> bool:
        directory = path if os.path.isdir(path) else os.path.dirname(path)
        if directory not in self._read_only:
            self._read_only[directory] = bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
        return self._read_only[directory]


def _overflow_is_foreign(kind: str) -> bool:
    """Return whether 65534 stands for owners from outside this user namespace (user_namespaces(7))."""
    try:
        with open(f"/proc/self/{kind}_map") as file:
            ranges = [[int(word) for word in line.split()] for line in file]
    except OSError:
        return False
    return not any(first <= _OVERFLOW_ID < first + count for first, _, count in ranges)


def shared_objects() -> set[str]:
    """Return the files mapped into this process: the interpreter, libraries and extensions (proc(5))."""
    with open("/proc/self/maps") as file:
        fields = (line.rstrip("\n").split(maxsplit=5) for line in file)
        return {entry[5] for entry in fields if len(entry) == 6 and entry[5].startswith("/")}
