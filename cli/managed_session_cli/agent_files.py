"""Lists, packs and unpacks files inside a sandbox. Runs there with `python3 -c`, as the agent's user.

As that user it can read and write no more than the agent, wherever the agent's links lead. It needs only the
standard library. Links and special files are left out.

    list PATH                  one JSON line for each file: {"path", "size", "modified"}
    pack PATH BYTES            a tar archive in base64, of at most BYTES of content
    unpack ARCHIVE PATH        writes the files of a tar archive below PATH

The last line of the output is a JSON object: {"left_out": [path, …], "directory": whether PATH is one}, or
{"error": text}.
"""

import base64
import json
import os
import stat
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MOST_LEFT_OUT = 20
_COPY_BYTES = 256 * 1024
_LINE_BYTES = 3 * 4096


class TransferError(Exception):
    """The files cannot be transferred. The text says why."""


class Base64Lines:
    """A file for writing whose content goes to standard output in base64."""

    def __init__(self) -> None:
        self._rest = b""

    def write(self, data: bytes) -> int:
        """Write all whole lines."""
        self._rest += data
        whole = len(self._rest) - len(self._rest) % _LINE_BYTES
        for start in range(0, whole, _LINE_BYTES):
            sys.stdout.write(base64.b64encode(self._rest[start : start + _LINE_BYTES]).decode() + "\n")
        self._rest = self._rest[whole:]
        return len(data)

    def close(self) -> None:
        """Write what is left."""
        if self._rest:
            sys.stdout.write(base64.b64encode(self._rest).decode() + "\n")
        self._rest = b""


def regular_files(root: Path, left_out: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the files at or below `root`, opened, by their paths in it. Links are not followed."""
    if not root.is_dir():
        file = _opened(str(root), None)
        if file is None:
            left_out.append(root.name)
            return
        with file:
            yield root.name, file
        return
    for directory, names, files, descriptor in os.fwalk(root, follow_symlinks=False):
        names.sort()
        links = [name for name in names if Path(directory, name).is_symlink()]
        for name in sorted([*files, *links]):
            path = str(Path(directory, name).relative_to(root))
            file = _opened(name, descriptor) if name not in links else None
            if file is None:
                left_out.append(path)
                continue
            with file:
                yield path, file


def _opened(name: str, directory: "int | None") -> "IO[bytes] | None":
    """Open a regular file; return None for anything else, and for what may not be read."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb")


class Padded:
    """A file of exactly `size` bytes, also if it becomes shorter or longer while it is read."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        wanted = min(size, self._left)
        data = self._file.read(wanted)
        self._left -= wanted
        return data.ljust(wanted, b"\0")


def list_files(path: Path, left_out: list[str]) -> None:
    """Print a line for each file."""
    for name, file in regular_files(path, left_out):
        found = os.fstat(file.fileno())
        line = {"path": name, "size": found.st_size, "modified": int(found.st_mtime)}
        sys.stdout.write(json.dumps(line) + "\n")


def pack(path: Path, most: int, left_out: list[str]) -> None:
    """Print an archive of the files.

    Raises:
        TransferError: they have more than `most` bytes.
    """
    output, total = Base64Lines(), 0
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for name, file in regular_files(path, left_out):
            found = os.fstat(file.fileno())
            total += found.st_size
            if total > most:
                raise TransferError(f"the files have more than {most // 1024**2} MiB")
            member = tarfile.TarInfo(name)
            member.size, member.mode = found.st_size, found.st_mode & 0o777
            archive.addfile(member, Padded(file, found.st_size))
    output.close()


def unpack(archive: Path, target: Path, left_out: list[str]) -> None:
    """Write the files of an archive below `target`. Each appears under its name only when it is complete."""
    with tarfile.open(archive) as members:
        for member in members:
            content = members.extractfile(member) if member.isreg() else None
            if content is None or member.name.startswith("/") or ".." in Path(member.name).parts:
                left_out.append(member.name)
                continue
            path = target / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name[:100]}.partial")
            with partial.open("wb") as file:
                while data := content.read(_COPY_BYTES):
                    file.write(data)
                os.fchmod(file.fileno(), member.mode & 0o777)
            partial.replace(path)


def main(arguments: list[str]) -> None:
    """Run one command and print its last line."""
    left_out: list[str] = []
    try:
        match arguments:
            case ["list", path]:
                list_files(_existing(path), left_out)
            case ["pack", path, most]:
                pack(_existing(path), int(most), left_out)
            case ["unpack", archive, path]:
                unpack(Path(archive), Path(path), left_out)
            case _:
                raise TransferError("unknown command")
        end: dict[str, object] = {
            "left_out": left_out[:MOST_LEFT_OUT],
            "directory": Path(arguments[1]).is_dir(),
        }
    except TransferError as error:
        end = {"error": str(error)}
    except OSError as error:
        end = {"error": f"{error.strerror} ({error.filename})"}
    sys.stdout.write("\n" + json.dumps(end) + "\n")


def _existing(path: str) -> Path:
    if not Path(path).exists():
        raise TransferError(f"{path} does not exist in the sandbox")
    return Path(path)


if __name__ == "__main__":
    main(sys.argv[1:])
