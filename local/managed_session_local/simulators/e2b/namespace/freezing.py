"""Pause and resume for every process of this PID namespace but its first."""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from managed_session_local.simulators.e2b.namespace import linux

_STOP_DEADLINE_SECONDS: Final = 2.0


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]  # noqa: PTH208 - hot path


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def freeze() -> set[int]:
    """Stop all processes at one moment; those that had been stopped before (they stay so after thaw)."""
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
    """Let the processes go on, except those that had been stopped before the freeze."""
    if not stopped_before:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGCONT)
        return
    for pid in _processes():
        if pid not in stopped_before:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def sever_connections() -> int:
    """Reset every TCP connection that a process here holds; how many. Listening sockets stay."""
    seen: set[str] = set()
    severed = 0
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
                    severed += _sever(pidfd, int(descriptor.name))
        finally:
            os.close(pidfd)
    return severed


def _sever(pidfd: int, descriptor: int) -> int:
    try:
        copy = linux.duplicate_descriptor(pidfd, descriptor)
    except OSError:
        return 0
    with socket.socket(fileno=copy) as connection:
        if (
            connection.family not in (socket.AF_INET, socket.AF_INET6)
            or connection.type != socket.SOCK_STREAM
        ):
            return 0
        try:
            connection.getpeername()
            linux.reset_connection(connection.fileno())
        except OSError:
            return 0
    return 1
