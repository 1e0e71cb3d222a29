"""Reads a file that grows, piece by piece, also after it was replaced by a new one."""

from __future__ import annotations

import codecs
from collections.abc import Awaitable, Callable

_REMEMBERED = 512
"""Bytes before the end that are read again, to notice that the file was replaced."""

Read = Callable[[int], Awaitable[bytes | None]]


class GrowingFile:
    """A file, and the position up to which it was read.

    Args:
        read: returns the bytes from a position on; None if the file is shorter.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._begin()

    def _begin(self) -> None:
        self._end = 0
        self._last = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def new_text(self) -> str:
        """Return what was added since the last call, or all of it if the file was replaced."""
        content = await self._read(self._end - len(self._last))
        if content is None or not content.startswith(self._last):
            self._begin()
            content = await self._read(0) or b""
        new = content[len(self._last) :]
        self._end += len(new)
        self._last = (self._last + new)[-_REMEMBERED:]
        return self._decoder.decode(new)
