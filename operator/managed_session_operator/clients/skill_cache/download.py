"""One download of a skill's archive onto the disk, read by all deliveries that want it meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

from managed_session_operator.clients.skill_cache.folder import SkillFolder

CHUNK_BYTES = 2 * 1024 * 1024
"""Size of the part of an archive that one delivery has in memory."""


class NotCachedError(Exception):
    """The cache cannot deliver the archive. The text says why."""


@dataclass(frozen=True)
class Listener:
    """Who is told about a download: `received` of bytes, `changed` of the folder's size.

    `left` is told when nobody may join it any more, possibly twice.
    """

    received: Callable[[int], None]
    changed: Callable[[], None]
    left: Callable[[Download], None]


class Download:
    """An archive on its way into the folder. It ends when nobody reads it any more, and leaves nothing then.

    Args:
        archive: the archive at Anthropic.
        folder: where it is kept.
        key: under which key.
        listener: who is told about it.
    """

    def __init__(
        self,
        archive: AbstractAsyncContextManager[AsyncIterator[bytes]],
        folder: SkillFolder,
        key: str,
        listener: Listener,
    ) -> None:
        self.key = key
        self.too_large = False
        """Whether the folder can never keep this archive."""
        self._archive, self._folder, self._listener = archive, folder, listener
        self._path, self._file = folder.new_part()
        self._reserved = self._written = self._readers = 0
        self._progress = asyncio.Event()
        self._over = False
        self._error: BaseException | None = None
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._finish)

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[BinaryIO]:
        """Keep the download going, and open its file for `read`."""
        self._readers += 1
        try:
            with self._path.open("rb") as file:
                yield file
        finally:
            self._readers -= 1
            if self._readers == 0 and not self._over:
                self._listener.left(self)
                self._task.cancel()
                await asyncio.wait([self._task])

    async def read(self, file: BinaryIO) -> AsyncIterator[bytes]:
        """Yield the archive as it comes.

        Raises:
            OperationError: the download failed.
            NotCachedError: the disk did not take all of it.
        """
        position = 0
        while True:
            over, progress, left = self._over, self._progress, self._written - position
            if left > 0:
                chunk = await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))
                if not chunk:
                    raise NotCachedError("its file has become shorter")
                position += len(chunk)
                yield chunk
            elif self._error is not None:
                raise self._error
            elif over:
                return
            else:
                await progress.wait()

    async def _run(self) -> str:
        """Write the archive to the disk and return its digest."""
        digest, refusal = hashlib.sha256(), None
        async with self._archive as chunks:
            async for chunk in chunks:
                self._listener.received(len(chunk))
                refusal = await self._take(chunk)
                if refusal is not None:
                    break
                digest.update(chunk)
                self._advance()
        if refusal is not None:
            # Not raised within the block: the archive would take it for a failure of its download.
            raise refusal
        return digest.hexdigest()

    async def _take(self, chunk: bytes) -> NotCachedError | None:
        """Write a chunk. Return why that is impossible."""
        size = len(chunk)
        if not self._folder.reserve(size):
            self.too_large = self._reserved + size > self._folder.most_bytes
            return NotCachedError("the cache has no room for it")
        self._reserved += size
        try:
            await asyncio.to_thread(_write, self._file, chunk)
        except OSError as error:
            return NotCachedError(error.strerror or str(error))
        self._written += size
        return None

    def _finish(self, task: asyncio.Task[str]) -> None:
        """Keep what has come, if it is whole. Called at every end, also before the task has begun."""
        self._folder.release(self._reserved)
        error = NotCachedError("nobody waited for it") if task.cancelled() else task.exception()
        with contextlib.suppress(OSError):
            # After a failed write, closing fails as well.
            self._file.close()
        kept = False
        if error is None:
            with contextlib.suppress(OSError):
                # Otherwise it is read to its end all the same, because its readers have opened it.
                self._folder.keep(self.key, self._path, task.result(), self._written)
                kept = True
        if not kept:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._error = error
        self._over = True
        self._listener.left(self)
        self._listener.changed()
        self._advance()

    def _advance(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()


def _write(file: BinaryIO, chunk: bytes) -> None:
    file.write(chunk)
    file.flush()
