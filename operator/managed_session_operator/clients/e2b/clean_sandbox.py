"""Removes what another session has left in a sandbox. Runs there as root, with the standard library only.

A sandbox that was created from a snapshot may have the processes that ran when the snapshot was taken: the
supervisor, which knows the other session's claims, the agent's shells and background jobs, and file systems
that were mounted with the other session's credentials. The files stay, except those that belong to that
session and not to its work: exit records, requests, the worker's log and the local copies of memory stores.
The next command for the supervisor starts a new one.

Repeating it does no harm. The last line of the output is `{"killed": number}`.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import struct
import sys
import time
from pathlib import Path

HOME = Path("/opt/anthropic-managed-agents")
KEPT_IN_RUN = ("interpreter", "supervisor.lock")
MEMORY = Path("/mnt/memory")
FIRST_LOGIN_UID = 1000
NOBODY = 65534
SECONDS = 10.0
CLEAR_PASSES = 3
DETACH = 2
"""MNT_DETACH of umount2(2)."""


def main() -> int:
    """Remove everything, and return 0 if it is gone."""
    unmount()
    supervisors = find_supervisors()
    for pid in supervisors:
        # It must not answer a claim, nor adopt or report anything, while its processes are killed.
        send(pid, signal.SIGSTOP)
    killed, left = kill_all(supervisors)
    remove_records()
    print(json.dumps({"killed": killed}))
    if left:
        sys.stderr.write(f"still alive: {sorted(left)}\n")
    return 1 if left else 0


def unmount() -> None:
    """Detach all FUSE file systems. Their processes end by that, and their credentials with them."""
    library = ctypes.CDLL(None, use_errno=True)
    for line in reversed(Path("/proc/self/mounts").read_text(errors="replace").splitlines()):
        fields = line.split(" ")
        if len(fields) > 2 and fields[2].startswith("fuse") and fields[1] != "/":
            target = fields[1].encode().decode("unicode_escape").encode("latin-1")
            library.umount2(target, DETACH)


def find_supervisors() -> "set[int]":
    """Return who listens on the supervisor's socket, and what runs its program."""
    found = set()
    program = b"managed_session_worker/supervisor.py"
    for pid in process_ids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if any(word.endswith(program) for word in command.split(b"\0")):
            found.add(pid)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        connection.connect(str(HOME / "run/supervisor.sock"))
        size = struct.calcsize("3i")
        pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
        if pid > 1:
            found.add(pid)
    return found - lineage()


def kill_all(supervisors: "set[int]") -> "tuple[int, set[int]]":
    """Kill the supervisors, their descendants and all processes of people, until none is left for a while.

    Return how many were killed, and which are still alive.
    """
    deadline = time.monotonic() + SECONDS
    killed: set[int] = set()
    roots, clear, spared = set(supervisors), 0, lineage()
    while True:
        table = processes()
        doomed = {
            pid
            for pid, (parent, state, uid) in table.items()
            if state not in "ZX"
            and pid not in spared
            and (FIRST_LOGIN_UID <= uid < NOBODY or pid in roots or parent in roots | killed)
        }
        below = doomed
        while below:
            below = (
                {pid for pid, (parent, state, _) in table.items() if parent in below and state not in "ZX"}
                - doomed
                - spared
            )
            doomed |= below
        for pid in doomed:
            send(pid, signal.SIGKILL)
        killed |= doomed
        clear = 0 if doomed else clear + 1
        if clear >= CLEAR_PASSES or time.monotonic() > deadline:
            return len(killed), doomed
        time.sleep(0.01)


def remove_records() -> None:
    """Remove the records of the other session. A link in their place is removed, not followed."""
    for folder in (HOME / "exits", HOME / "inbox", HOME / "uploads", HOME / "skill-parts", MEMORY):
        empty(folder, ())
    empty(HOME / "run", KEPT_IN_RUN)
    (HOME / "worker.log").unlink(missing_ok=True)


def empty(folder: Path, kept: "tuple[str, ...]") -> None:
    """Remove the contents of a folder that is not a link."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in os.scandir(folder):
        if entry.name in kept:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


def processes() -> "dict[int, tuple[int, str, int]]":
    """Return parent, state and user of all processes, by PID."""
    table = {}
    for pid in process_ids():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            uid = Path(f"/proc/{pid}").stat().st_uid
        except OSError:
            continue
        state, parent, *_ = stat.rpartition(")")[2].split()
        table[pid] = (int(parent), state, uid)
    return table


def process_ids() -> "list[int]":
    """Return the PIDs of all processes."""
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal()]


def lineage() -> "set[int]":
    """Return the processes that must live: the first one, and this one with its ancestors."""
    table, pid, found = processes(), os.getpid(), {1}
    while pid in table and pid not in found:
        found.add(pid)
        pid = table[pid][0]
    return found


def send(pid: int, number: int) -> None:
    """Send a signal, unless the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main())
