"""Keeps what a command of the agent's shell writes, and what its background processes write afterwards."""

import array
import fcntl
import os
import select
import subprocess
import tempfile
import termios
from pathlib import Path

PARENT_FOLDERS = ("/tmp", "/dev/shm")  # noqa: S108 - a folder with a random name, for this user alone
"""Where to make the folder for pipes and background output, in order of preference. When the agent has filled
the disk, it must still be able to run commands that clean up."""
BACKGROUND_OUTPUT_BYTES = 64 * 1024 * 1024
"""How much of a background process's output is kept on disk; the rest is discarded."""
_KEEP = "ulimit -f {blocks}; trap '' XFSZ; cat; exec cat >/dev/null"
"""Goes on reading when the file is full or gone, so that the writer neither stalls nor dies."""
_BLOCK_BYTES = 1024
_CHUNK_BYTES = 65536


class OutputFolder:
    """A private folder, made when it is needed, and again if the agent has removed it."""

    def __init__(self, workdir: str) -> None:
        self._parents = (*PARENT_FOLDERS, workdir)
        self._path: Path | None = None

    def path(self) -> Path:
        """Return the folder; make it if it does not exist.

        Raises:
            OSError: It could not be made anywhere.
        """
        if self._path is None or not self._path.is_dir():
            self._path = self._make()
        return self._path

    def _make(self) -> Path:
        first_error: OSError | None = None
        for parent in self._parents:
            try:
                return Path(tempfile.mkdtemp(prefix="command-output-", dir=parent))
            except OSError as error:
                first_error = first_error or error
        raise first_error or FileNotFoundError("no folder for the output of commands")

    def remove_if_empty(self) -> None:
        """Remove the folder unless it holds the output of a background process."""
        if self._path is not None:
            try:
                self._path.rmdir()
            except OSError:
                return


class CommandOutput:
    """The reading end of one command's pipe, and the last `limit` bytes that came through it.

    Each command has its own pipe, apart from the output of earlier commands' background processes.
    """

    def __init__(self, pipe: Path, limit: int) -> None:
        """Make the pipe; the shell opens it by its path.

        Raises:
            OSError: It could not be made.
        """
        os.mkfifo(pipe, 0o600)
        self._pipe = pipe
        self._limit = limit
        self._tail = bytearray()
        self.descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.truncated = False

    @property
    def tail(self) -> bytes:
        """The end of the output."""
        return bytes(self._tail)

    def read(self) -> bool:
        """Read a chunk, if there is one; return False once nobody can write any more."""
        try:
            data = os.read(self.descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return True
        self._tail += data
        if len(self._tail) > self._limit:
            del self._tail[: len(self._tail) - self._limit]
            self.truncated = True
        return bool(data)

    def drain(self) -> None:
        """Read what is in the pipe at this moment, even while somebody goes on writing."""
        waiting = array.array("i", [0])
        fcntl.ioctl(self.descriptor, termios.FIONREAD, waiting)
        for _ in range(waiting[0] // _CHUNK_BYTES + 1):
            if not self.read():
                return

    def has_writers(self) -> bool:
        """Return whether a process holds the other end."""
        poller = select.poll()
        poller.register(self.descriptor, 0)
        return not poller.poll(0)

    def leave_to_background(self, log: Path) -> bool:
        """Start a process that reads the pipe from now on, so that the writers outlive this one.

        Args:
            log: The file for the output so far and all output to come.

        Returns:
            False if the file could not be written; the output is then discarded.
        """
        kept = True
        try:
            target = os.open(
                log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            os.write(target, self._tail)
        except OSError:
            kept, target = False, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.set_blocking(self.descriptor, True)
        try:
            process = subprocess.Popen(  # noqa: S603 - a constant script
                ["/bin/bash", "-c", _KEEP.format(blocks=BACKGROUND_OUTPUT_BYTES // _BLOCK_BYTES)],
                stdin=self.descriptor,
                stdout=target,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(target)
        _keepers.append(process)
        return kept

    def close(self) -> None:
        """Close and remove the pipe."""
        os.close(self.descriptor)
        self._pipe.unlink(missing_ok=True)


_keepers: list[subprocess.Popen[bytes]] = []
"""Processes that read background output; they outlive this one."""


def keepers() -> "list[subprocess.Popen[bytes]]":
    """Return the keepers that have not been reaped."""
    return list(_keepers)


def reap_keepers() -> None:
    """Reap the keepers whose writers have ended."""
    _keepers[:] = [keeper for keeper in _keepers if keeper.poll() is None]
