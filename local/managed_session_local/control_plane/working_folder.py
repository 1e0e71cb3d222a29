"""The temporary folder of one running control plane, and the removal of those that killed processes left."""

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
    """A new folder for this user only; removed on exit, or by a later call if this process is killed."""
    _remove_abandoned()
    # Short: it holds Unix sockets, whose paths may have about 100 characters.
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
            # A folder this young may belong to a process that has yet to take its lock.
            if time.time() - folder.stat().st_mtime < _SECONDS_TO_LOCK:
                continue
            with FileLock(folder / _LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, Timeout):
            # Another user's, in use, or just removed by somebody else.
            continue
