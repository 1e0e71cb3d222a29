"""Makes temporary folders, and removes those that killed processes have left."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "managed-sessions-control-plane-"
_LOCK = "lock"
_SECONDS_TO_LOCK = 60.0


@contextmanager
def working_folder() -> Iterator[Path]:
    """Make a folder for this user only. It is removed on exit, or by a later call after a kill."""
    _remove_abandoned()
    # The path must be short: the folder holds Unix sockets, whose paths are limited to about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = FileLock(folder / _LOCK)
    lock.acquire()
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            # A folder this young may belong to a process that has not locked it yet.
            if time.time() - folder.stat().st_mtime < _SECONDS_TO_LOCK:
                continue
            with FileLock(folder / _LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, Timeout):
            # The folder belongs to another user, is in use, or has just been removed.
            continue
