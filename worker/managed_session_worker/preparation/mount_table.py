"""Reads and changes what is mounted in this machine: mount(2), proc(5) `mountinfo`, pidfd_getfd(2)."""

import ctypes
import errno
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 1, 2, 4, 32, 4096
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438
POLL_SECONDS = 0.02
ABSENT_FILE = ".managed-sessions-check"
"""A name that a mount is asked for. Storage has to look for it, unlike for the mount's root."""
ANSWERS = {errno.ENOENT, errno.EACCES, errno.EPERM}
"""Errors of a storage that answers: there is no such file, or the credential may not look for it."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Entry:
    """One mount."""

    path: str
    kind: str
    options: frozenset[str]


def entries(path: str) -> list[Entry]:
    """Return what is mounted on `path`, the topmost last."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4])
        if place == path:
            found.append(Entry(place, rest.split(" ")[0], frozenset(words[5].split(","))))
    return found


def is_served(path: str) -> bool:
    """Return whether the topmost mount on `path` is served by a program (FUSE)."""
    found = entries(path)
    return bool(found) and found[-1].kind.startswith("fuse")


def in_child(action: Callable[[], int], seconds: float) -> int | None:
    """Run `action` in a child process and return its result, an errno; None if it takes longer.

    A call to a file system whose server is silent never returns. A child can be left to it.
    """
    pid = os.fork()
    if pid == 0:
        number = errno.EIO
        try:
            number = action()
        except OSError as error:
            number = error.errno or errno.EIO
        finally:
            os._exit(number & 0xFF)
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) & 0xFF
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return None
        time.sleep(POLL_SECONDS)


def ask(path: str, seconds: float) -> str | None:
    """Ask the storage behind a mount for a file that is not there. Return what is wrong, or None."""

    def look() -> int:
        os.lstat(os.path.join(path, ABSENT_FILE))  # noqa: PTH118 - a hot path
        return 0

    number = in_child(look, seconds)
    if number is None:
        return f"it did not answer within {seconds:g} s"
    return None if number == 0 or number in ANSWERS else os.strerror(number)


def detach(path: str) -> None:
    """Unmount everything on `path` now, whoever uses it (umount2(2), MNT_DETACH)."""
    while entries(path):
        _checked(_libc.umount2(os.fsencode(path), MNT_DETACH | UMOUNT_NOFOLLOW), "umount2")


def unmount(path: str, seconds: float) -> bool:
    """Unmount the topmost mount on `path` if nobody uses it. Return whether it was unmounted."""

    def act() -> int:
        _checked(_libc.umount2(os.fsencode(path), UMOUNT_NOFOLLOW), "umount2")
        return 0

    return in_child(act, seconds) == 0


def restrict(path: str, *, read_only: bool) -> None:
    """Forbid set-user-ID programs and devices on a mount, and writes if `read_only`. Raises OSError."""
    wanted = {"nosuid", "nodev"} | ({"ro"} if read_only else set())
    if wanted <= entries(path)[-1].options:
        return
    flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0)
    _checked(_libc.mount(None, os.fsencode(path), None, ctypes.c_ulong(flags), None), "mount")


def programs(path: str, names: frozenset[str]) -> list[int]:
    """Return the processes of root that run one of these programs for `path`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if process.stat().st_uid == 0 and os.fsencode(path) in words[1:] and _name(words[0]) in names:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def _name(program: bytes) -> str:
    return os.fsdecode(program).rpartition("/")[2]


def cut_connections(pids: list[int]) -> None:
    """Shut the TCP connections of these processes down, so that they open new ones at once.

    After a pause the other ends may be gone without a sign, and a request on such a connection would wait for
    its timeout.
    """
    for pid in pids:
        with suppress(OSError):
            pidfd = _checked(_libc.syscall(SYS_PIDFD_OPEN, pid, 0), "pidfd_open")
            try:
                for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
                    with suppress(OSError):
                        if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):  # noqa: PTH115
                            _shut(pidfd, int(name))
            finally:
                os.close(pidfd)


def _shut(pidfd: int, descriptor: int) -> None:
    number = _checked(_libc.syscall(SYS_PIDFD_GETFD, pidfd, descriptor, 0), "pidfd_getfd")
    with socket.socket(fileno=number) as connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
            connection.shutdown(socket.SHUT_RDWR)


def wait_ended(pids: list[int], seconds: float) -> list[int]:
    """Wait until these processes have ended. Return those that have not."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if _runs(pid)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(POLL_SECONDS)
    return []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pids: list[int]) -> None:
    """Kill processes."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
