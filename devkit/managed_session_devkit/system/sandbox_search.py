"""Reads all that a simulated sandbox holds, to look for a secret in it from outside."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from managed_session_devkit.simulators.e2b.client import SimulatedSandbox

_LARGEST_BYTES = 5_000_000


def everything_in(sandbox: SimulatedSandbox) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of all files of a running sandbox, except very large ones, and of its processes.

    Of a process, its environment, its command line and its memory are read. What this user may not read, or
    what has ended, is left out.
    """
    for parent, _, names in os.walk(sandbox.path("/")):
        for path in (Path(parent, name) for name in names):
            with suppress(OSError):
                if path.is_file() and not path.is_symlink() and path.stat().st_size < _LARGEST_BYTES:
                    yield str(path), path.read_bytes()
    for process in sandbox.processes:
        folder = Path("/proc") / str(process.host_pid)
        with suppress(OSError):
            yield f"{process.command} environ", (folder / "environ").read_bytes()
            yield f"{process.command} cmdline", (folder / "cmdline").read_bytes()
            yield f"{process.command} mem", _memory_of(folder)


def _memory_of(folder: Path) -> bytes:
    """Return what a process may have written into its memory."""
    found = bytearray()
    with (folder / "mem").open("rb", buffering=0) as memory:
        for line in (folder / "maps").read_text().splitlines():
            area, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(each, 16) for each in area.split("-"))
            with suppress(OSError, ValueError, OverflowError):
                memory.seek(start)
                found += memory.read(end - start)
    return bytes(found)
