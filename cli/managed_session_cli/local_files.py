"""Packs local files into an archive, and writes the files of an archive that a sandbox has sent."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from managed_session_cli.errors import CommandError

_COPY_BYTES = 256 * 1024


def write_files(archive: IO[bytes], target: Path, *, single: bool = False) -> list[Path]:
    """Write the regular files of an archive below `target`, and return their paths.

    The archive comes from an agent, so nothing outside `target` is written, whatever it says.

    Args:
        archive: a tar archive.
        target: a directory, or the file to write if `single`.
        single: whether the archive's only file is written as `target`.

    Raises:
        CommandError: a file cannot be written here, or has a path outside.
    """
    written: list[Path] = []
    try:
        with tarfile.open(fileobj=archive) as members:
            for member in members:
                content = members.extractfile(member) if member.isreg() else None
                if content is None:
                    continue
                path = target if single else target / _inside(member.name)
                if not single and not path.parent.resolve().is_relative_to(target.resolve()):
                    raise CommandError(
                        f"{path.parent} leads out of {target} by a link: nothing was written there"
                    )
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_name(f".{path.name[:100]}.partial")
                partial.unlink(missing_ok=True)
                with partial.open("xb") as file:
                    while data := content.read(_COPY_BYTES):
                        file.write(data)
                partial.chmod(0o755 if member.mode & 0o100 else 0o644)
                partial.replace(path)
                written.append(path)
    except tarfile.TarError:
        raise CommandError("the sandbox's answer was cut short or cannot be read. Try again.") from None
    except OSError as error:
        raise CommandError(f"cannot write {error.filename}: {error.strerror}") from None
    return written


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise CommandError(f"the sandbox sent a file with the path {printable(name)}, which is not allowed")
    return path


def pack_files(source: Path, name: str, archive: IO[bytes]) -> list[str]:
    """Write a tar archive of a file, called `name` in it, or of what is below a directory.

    Returns:
        The paths of what is neither a regular file nor a directory, which is left out.

    Raises:
        CommandError: a file cannot be read.
    """
    left_out: list[str] = []
    try:
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as members:
            for path, inside in _local_files(source, name):
                if path.is_symlink() or not path.is_file():
                    left_out.append(str(path))
                    continue
                members.add(path, inside, recursive=False)
    except OSError as error:
        raise CommandError(f"cannot read {error.filename}: {error.strerror}") from None
    return left_out


def _local_files(source: Path, name: str) -> Iterator[tuple[Path, str]]:
    if not source.is_dir():
        yield source.resolve(strict=True), name
        return
    for path in sorted(source.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path, str(PurePosixPath(name) / path.relative_to(source).as_posix())


def printable(text: str) -> str:
    """Return a name without what would control a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)
