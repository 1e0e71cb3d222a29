"""Pauses and resumes every process of this PID namespace except its first."""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from managed_session_devkit.simulators.common.silent_connections import silence
from managed_session_devkit.simulators.e2b.namespace import linux

_STOP_DEADLINE_SECONDS: Final = 2.0


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]  # noqa: PTH208 - hot path


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def freeze() -> set[int]:
    """Stop all processes at one moment. Return those that were stopped before, for `thaw`."""
    stopped_before = {pid for pid in _processes() if _state(pid) == "T"}
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGSTOP)
    deadline = time.monotonic() + _STOP_DEADLINE_SECONDS
    while any(_state(pid) not in "TtXZ" for pid in _processes()):
        if time.monotonic() > deadline:
            break
        time.sleep(0.001)
    return stopped_before


def thaw(stopped_before: set[int]) -> None:
    """Continue the processes, except those that were stopped before the freeze."""
    if not stopped_before:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGCONT)
        return
    for pid in _processes():
        if pid not in stopped_before:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def sever_connections(*, silently: bool) -> int:
    """Cut every TCP connection between a process here and the outside. Return their number.

    Connections with both ends here continue, as on a machine's loopback device, and so do listening sockets.

    Args:
        silently: keep the connections established, with nothing passing on them. Otherwise reset them.
    """
    outside = _outside_connections()
    cut = 0
    for connection in outside:
        with connection, suppress(OSError):
            if silently:
                silence(connection)
            else:
                linux.reset_connection(connection.fileno())
            cut += 1
    return cut


def _outside_connections() -> list[socket.socket]:
    """Return copies of all TCP sockets here whose other end is outside. The caller closes them."""
    seen: set[str] = set()
    found: dict[tuple[Any, Any], socket.socket] = {}
    for pid in _processes():
        try:
            descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            for descriptor in descriptors:
                try:
                    target = str(descriptor.readlink())
                except OSError:
                    continue
                if target.startswith("socket:") and target not in seen:
                    seen.add(target)
                    connection = _connected(pidfd, int(descriptor.name))
                    if connection is not None:
                        found[connection.getsockname()[:2], connection.getpeername()[:2]] = connection
        finally:
            os.close(pidfd)
    outside = []
    for (here, there), connection in found.items():
        if (there, here) in found:
            connection.close()
        else:
            outside.append(connection)
    return outside


def _connected(pidfd: int, descriptor: int) -> socket.socket | None:
    """Return a copy of another process's descriptor, if it is a connected TCP socket."""
    try:
        connection = socket.socket(fileno=linux.duplicate_descriptor(pidfd, descriptor))
    except OSError:
        return None
    if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
        with suppress(OSError):
            connection.getpeername()
            return connection
    connection.close()
    return None
