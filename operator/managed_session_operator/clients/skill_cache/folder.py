"""The folder in which archives are kept: bounded, the least recently used ones go first.

A file's name is all that is recorded of it: `KEY-DIGEST-SIZE.skill`. So a new process adopts what an earlier
one has left, and a file with other content than its name says is damaged. The time of last use is the file's
modification time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

READ_BYTES = 1024 * 1024
_KEPT = re.compile(r"([0-9a-f]{64})-([0-9a-f]{64})-(\d{1,15})\.skill")
_PART = re.compile(r"[0-9a-f]{32}\.part")


@dataclass(frozen=True)
class Kept:
    """An archive in the folder."""

    path: Path
    digest: str
    size: int


class SkillFolder:
    """Archives on disk, with those that are being downloaded counted in. All methods use the disk.

    Args:
        folder: where they are kept. It is made if it is missing. Files that are not ours are left alone.
        most_bytes: bound on the sum of their sizes.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self.most_bytes = most_bytes
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        """By key, the least recently used first."""
        self._coming = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._adopt()

    @property
    def size(self) -> int:
        """Bytes of all archives, including those that are being downloaded."""
        return self._coming + sum(each.size for each in self._kept.values())

    def _adopt(self) -> None:
        """Take over what an earlier process has left, and remove what it has not finished."""
        found: list[tuple[float, str, Kept]] = []
        for path in self._folder.iterdir():
            if _PART.fullmatch(path.name):
                path.unlink(missing_ok=True)
            elif (name := _KEPT.fullmatch(path.name)) is not None:
                key, digest, size = name.groups()
                found.append((path.lstat().st_mtime, key, Kept(path, digest, int(size))))
        for _, key, kept in sorted(found, key=lambda each: each[0]):
            self.drop(key, self._kept.get(key))
            self._kept[key] = kept
        self._make_room(0)

    def get(self, key: str) -> Kept | None:
        """Return an archive and note that it is used."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def drop(self, key: str, kept: Kept | None) -> None:
        """Remove this archive, unless another one has taken its place."""
        if kept is None or self._kept.get(key) is not kept:
            return
        del self._kept[key]
        _remove(kept.path)

    def new_part(self) -> tuple[Path, BinaryIO]:
        """Open a file for an archive that is being downloaded."""
        path = self._folder / f"{uuid.uuid4().hex}.part"
        return path, path.open("xb")

    def reserve(self, size: int) -> bool:
        """Count bytes of a coming archive in, and make room for them. Return False if that is impossible."""
        if self._coming + size > self.most_bytes:
            return False
        self._make_room(size)
        self._coming += size
        return True

    def release(self, size: int) -> None:
        """Count these bytes out again, because their archive has come or does not come."""
        self._coming -= size

    def keep(self, key: str, part: Path, digest: str, size: int) -> None:
        """Keep an archive that has come completely."""
        path = self._folder / f"{key}-{digest}-{size}.skill"
        self.drop(key, self._kept.get(key))
        part.rename(path)
        self._kept[key] = Kept(path, digest, size)
        self._make_room(0)

    def _make_room(self, size: int) -> None:
        while self._kept and self.size + size > self.most_bytes:
            _, oldest = self._kept.popitem(last=False)
            _remove(oldest.path)


def open_whole(kept: Kept) -> BinaryIO | None:
    """Open an archive at its beginning; None if it is damaged. An open archive may be removed meanwhile."""
    try:
        file = kept.path.open("rb")
    except OSError:
        return None
    try:
        digest = hashlib.sha256()
        left = kept.size
        while chunk := file.read(min(READ_BYTES, left + 1)):
            digest.update(chunk)
            left -= len(chunk)
            if left < 0:
                break
        if left == 0 and digest.hexdigest() == kept.digest:
            file.seek(0)
            os.utime(file.fileno())
            return file
    except OSError:
        pass
    file.close()
    return None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("cannot remove a skill's archive: %s", error.strerror)
