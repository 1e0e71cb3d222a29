"""Removes a session of a shared sandbox whose supervisor has ended: its last processes, and its folders."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from managed_session_worker.neighbours import living_supervisor
from managed_session_worker.paths import Paths
from managed_session_worker.processes import process_table
from managed_session_worker.session_namespace import namespace_of
from managed_session_worker.supervisor_lock import take_lock
from managed_session_worker.wire import RefusalCode, RequestRejectedError

LOCK_SECONDS = 10.0
"""How long a supervisor that ends by itself may take to do so."""
REMOVE_SECONDS = 60.0
"""How long the session's files may take to be removed. It goes on where an earlier attempt was cut off."""


def namespace_of_supervisor(paths: Paths, pid: int) -> str:
    """Return the mount namespace of the session's supervisor; "" if this is not it, or it has ended."""
    return namespace_of(pid) if pid == living_supervisor(paths, process_table()) else ""


def kill_in_namespace(namespace: str) -> bool:
    """Kill what runs in a session's mount namespace; return whether nothing was left there."""
    if namespace in ("", namespace_of("self"), namespace_of(1)):
        return True
    found = [entry.name for entry in os.scandir("/proc") if entry.name.isdecimal()]
    alive = [pid for pid in found if namespace_of(pid) == namespace]
    for pid in alive:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return not alive


def remove(paths: Paths) -> None:
    """Remove the session's folders, while no supervisor can start in them.

    Raises:
        RequestRejectedError: a supervisor runs, or the folders could not be removed.
    """
    Path(paths.run).mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_SECONDS
    while (lock := take_lock(paths)) is None:
        if time.monotonic() > deadline:
            raise RequestRejectedError(RefusalCode.BUSY, "the session's supervisor still runs, or runs again")
        time.sleep(0.02)
    try:
        # `rm` takes trees of any depth. The lock's folder is the last, so that a cut attempt is repeated.
        for folder in paths.folders:
            ended = subprocess.run(  # noqa: S603 - our own folders
                ["/bin/rm", "-rf", "--", folder],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=REMOVE_SECONDS,
                check=False,
            )
            if ended.returncode:
                why = ended.stderr.decode(errors="replace").strip()[-200:]
                raise RequestRejectedError(RefusalCode.START_FAILED, f"{folder} could not be removed: {why}")
    except subprocess.TimeoutExpired:
        message = f"the session's files could not be removed within {REMOVE_SECONDS:.0f} s"
        raise RequestRejectedError(RefusalCode.START_FAILED, message) from None
    finally:
        os.close(lock)
