"""Linux system calls that Python 3.11 has no functions for, through ctypes and the C library."""

import ctypes
import os
import struct
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_RELATIME: Final = 1 << 21

_MNT_DETACH: Final = 2
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NAME: Final = 15
_SYS_PIDFD_GETFD: Final = 438  # the same number on every architecture (Linux 5.6)
_AF_UNSPEC_ADDRESS: Final = struct.pack("=H14x", 0)
_KEPT_MOUNT_FLAGS: Final = (MS_NOSUID, MS_NODEV, MS_NOEXEC, 1024, 2048)  # statvfs uses the same bits
_ST_RELATIME: Final = 4096

# Capabilities that a process inside could use against the host, if it is the host's root user.
DROPPED_CAPABILITIES: Final = {
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_BOOT": 22,
    "CAP_SYS_TIME": 25,
    "CAP_MKNOD": 27,
    "CAP_MAC_OVERRIDE": 32,
    "CAP_MAC_ADMIN": 33,
    "CAP_SYSLOG": 34,
    "CAP_BPF": 39,
}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def unshare(flags: int) -> None:
    """Move to new namespaces of these kinds (unshare(2)). Raises OSError."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount a file system. Raises OSError that names source and target."""
    result = _libc.mount(
        _text(source), _text(target), _text(kind), ctypes.c_ulong(flags), ctypes.c_char_p(_text(data))
    )
    _checked(result, f"mount {source} on {target}")


def bind_read_only(source: str, target: str) -> None:
    """Bind-mount `source` on `target` read-only, with the flags that a user namespace may not clear."""
    mount(source, target, None, MS_BIND | MS_REC)
    present = os.statvfs(target).f_flag
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY
    for flag in _KEPT_MOUNT_FLAGS:
        flags |= present & flag
    if present & _ST_RELATIME:
        flags |= MS_RELATIME
    mount(None, target, None, flags)


def change_root(new_root: str) -> None:
    """Make the mount point `new_root` the root of this mount namespace, and unmount the old root."""
    os.chdir(new_root)
    _checked(_libc.pivot_root(b".", b"."), f"pivot_root {new_root}")
    _checked(_libc.umount2(b".", ctypes.c_int(_MNT_DETACH)), "umount of the old root")
    os.chdir("/")


def become_subreaper() -> None:
    """Adopt orphans below this process as its children (prctl PR_SET_CHILD_SUBREAPER)."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl PR_SET_CHILD_SUBREAPER")


def set_process_name(name: str) -> None:
    """Set the name that `ps` shows for this process."""
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)


def set_command_line(words: list[str]) -> None:
    """Set the command line that `ps` shows for this process, as far as the original one leaves room."""
    with open("/proc/self/stat", encoding="utf-8") as stream:  # noqa: PTH123 - this runs in every sandbox
        fields = stream.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    shown = b"\0".join(os.fsencode(word) for word in words)[: end - start - 1]
    if start and end > start:
        ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def drop_dangerous_capabilities(*, but: str | None = None) -> None:
    """Keep DROPPED_CAPABILITIES from every program executed from now on, except the one named `but`."""
    for name, number in DROPPED_CAPABILITIES.items():
        if name == but:
            continue
        _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def forget_dangerous_capabilities(*, but: str | None = None) -> None:
    """Like drop_dangerous_capabilities, for a process that continues without executing a program."""
    header = _CapabilityHeader(0x20080522, 0)
    data = (_CapabilityData * 2)()
    if _libc.capget(ctypes.byref(header), data) < 0:
        return
    for name, number in DROPPED_CAPABILITIES.items():
        if name == but:
            continue
        kept = ~(1 << (number % 32)) & 0xFFFFFFFF
        entry = data[number // 32]
        entry.effective &= kept
        entry.permitted &= kept
        entry.inheritable &= kept
    _checked(_libc.capset(ctypes.byref(header), data), "capset")


def duplicate_descriptor(pidfd: int, descriptor: int) -> int:
    """Return a copy of another process's file descriptor (pidfd_getfd(2)). Raises OSError."""
    return _checked(
        _libc.syscall(ctypes.c_long(_SYS_PIDFD_GETFD), pidfd, descriptor, ctypes.c_uint(0)), "pidfd_getfd"
    )


def reset_connection(descriptor: int) -> None:
    """Reset a TCP connection: the owner gets ECONNRESET, the other side a reset. Raises OSError."""
    _checked(_libc.connect(descriptor, _AF_UNSPEC_ADDRESS, len(_AF_UNSPEC_ADDRESS)), "connect AF_UNSPEC")
