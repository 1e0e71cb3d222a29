"""The mount namespace of one session in a shared sandbox (mount_namespaces(7), mount(2), setns(2)).

Each session has a supervisor of its own in a mount namespace of its own, where the session's folders are
mounted at the usual paths. Everything that the supervisor starts is born into that namespace, and the agent
cannot leave it, nor enter that of another session. What is mounted in the sandbox, now or later, appears in
all namespaces; what is mounted in one of them appears nowhere else. A namespace, and its mounts, end with its
last process.

It keeps sessions from meeting by accident. All agents of a sandbox are the same user, so it is no boundary
against an agent that looks for another session's processes in /proc.
"""

# ruff: noqa: PTH103, PTH115

import ctypes
import os

from managed_session_worker.paths import Paths

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_SLAVE, _MS_SHARED = 1 << 12, 1 << 14, 1 << 19, 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def make_namespace(paths: Paths) -> None:
    """Move this process to a new mount namespace in which the session's folders are at the usual paths.

    Raises:
        OSError: the kernel refuses it, or this process may not mount.
    """
    # Only from shared mounts do later mounts reach other namespaces. Under systemd all mounts are shared.
    _mount(None, "/", _MS_SHARED | _MS_REC)
    _check(_libc.unshare(ctypes.c_int(_CLONE_NEWNS)), "a mount namespace could not be made")
    _mount(None, "/", _MS_SLAVE | _MS_REC)
    for outer, place in ((paths.outer_workdir, paths.workdir), (paths.outer_memory, paths.memory)):
        os.makedirs(outer, mode=0o700, exist_ok=True)
        os.makedirs(place, exist_ok=True)
        _mount(outer, place, _MS_BIND)


def join_namespace(pid: int) -> None:
    """Move this process to the mount namespace of another one. Its directory is then the root.

    Raises:
        OSError: there is no such process, or this one has threads or may not.
    """
    descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        result = _libc.setns(ctypes.c_int(descriptor), ctypes.c_int(_CLONE_NEWNS))
        _check(result, "the session's mount namespace could not be entered")
    finally:
        os.close(descriptor)
    os.chdir("/")


def namespace_of(pid: int | str) -> str:
    """Return what identifies the mount namespace of a process; "" if the process is gone or hidden."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def _mount(source: str | None, target: str, flags: int) -> None:
    arguments = [ctypes.c_char_p(None if text is None else os.fsencode(text)) for text in (source, target)]
    result = _libc.mount(*arguments, None, ctypes.c_ulong(flags), None)
    _check(result, f"{target} could not be mounted for the session")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
