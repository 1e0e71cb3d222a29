"""The installation ID of this user's local system, which marks its sandboxes."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

_MAXIMUM = 100


@contextmanager
def installation_id(folder: Path | None = None) -> Iterator[str]:
    """Reserve this user's installation ID, which is the same at every start.

    So the next run recognizes the sandboxes that a killed run has left. A run beside another one gets a
    different ID, which is kept too: two installations with the same ID would kill each other's sandboxes.

    Args:
        folder: where IDs are kept. Default: the user's data folder.
    """
    folder = folder or platformdirs.user_data_path("managed-sessions")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(_MAXIMUM):
        path = folder / (f"installation-id-{number + 1}" if number else "installation-id")
        lock = FileLock(path.with_name(path.name + ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            known = path.read_text().strip() if path.is_file() else ""
            if not known:
                known = f"local-{uuid.uuid4()}"
                path.write_text(known + "\n")
            yield known
        finally:
            lock.release()
        return
    raise OSError(f"{_MAXIMUM} local systems of this user are already running")
