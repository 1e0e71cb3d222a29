"""The lock that says which process is the supervisor: of a sandbox, or of one session in a shared one."""

# ruff: noqa: PTH116

import fcntl
import os

from managed_session_worker.paths import Paths


def take_lock(paths: Paths) -> int | None:
    """Return a descriptor that holds the lock until it is closed; None if another process has it.

    Raises:
        OSError: the file could not be made.
    """
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever removes a session's folders does so while it holds the lock.
        if os.path.samestat(os.fstat(descriptor), os.stat(paths.lock)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
