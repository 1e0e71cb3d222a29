"""Skills' archives by way of the cache: from disk, from a download that is under way, or from a new one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from managed_session_api.conditions import Reason

from managed_session_operator.clients.skill_cache.download import (
    CHUNK_BYTES,
    Download,
    Listener,
    NotCachedError,
)
from managed_session_operator.clients.skill_cache.folder import SkillFolder, open_whole
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SkillArchives
from managed_session_operator.domain.session import SkillReference, SkillVersion
from managed_session_operator.metrics import SkillCacheMetrics

logger = logging.getLogger(__name__)

_MOST_UNCACHEABLE = 1000


class CachedSkillArchives:
    """The skills of agents, each version downloaded once for all deliveries, and kept on disk.

    A version never changes, so an archive is kept by the IDs of skill and version. `latest` is resolved at
    Anthropic each time. Whenever the disk fails, deliveries go on without the cache.

    Args:
        archives: the skills at Anthropic.
        folder: where archives are kept.
        deliveries: maximum number of archives that are delivered at once, over all sessions.
        metrics: counts where archives come from.
    """

    def __init__(
        self, archives: SkillArchives, folder: SkillFolder, *, deliveries: int, metrics: SkillCacheMetrics
    ) -> None:
        self._archives = archives
        self._folder = folder
        self._metrics = metrics
        self._turns = asyncio.Semaphore(deliveries)
        self._downloads: dict[str, Download] = {}
        self._uncacheable: dict[str, None] = {}
        """Versions that are too large for the cache, so that they do not empty it again and again."""
        self._listener = Listener(received=metrics.downloaded.inc, changed=self._show_size, left=self._left)
        self._show_size()

    async def resolve(self, reference: SkillReference) -> SkillVersion:
        """Return the version to which the reference points, as Anthropic says now."""
        return await self._archives.resolve(reference)

    @asynccontextmanager
    async def open(self, version: SkillVersion, *, seconds: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the archive in chunks, of which one is in memory at a time.

        Args:
            version: version to read.
            seconds: timeout, including what the caller does between chunks, but not the wait for other
                deliveries.

        Raises:
            OperationError: the archive cannot be had, or it took too long.
        """
        async with self._turns:
            try:
                async with asyncio.timeout(seconds), contextlib.AsyncExitStack() as stack:
                    yield self._chunks(version, seconds, stack)
            except TimeoutError:
                raise OperationError(
                    ErrorKind.TRANSIENT,
                    Reason.ENVIRONMENT_UNREACHABLE,
                    f"Anthropic could not be reached for skill download (it took longer than {seconds:g} s)",
                    outcome_known=False,
                ) from None

    def forget(self, version: SkillVersion) -> None:
        """Remove an archive that could not be unpacked: it may be another's answer, say of a proxy."""
        key = _key(version)
        self._folder.drop(key, self._folder.get(key))
        self._show_size()

    async def _chunks(
        self, version: SkillVersion, seconds: float, stack: contextlib.AsyncExitStack
    ) -> AsyncIterator[bytes]:
        """Read the archive from the cache; from where the cache fails, from Anthropic."""
        key, given, size = _key(version), hashlib.sha256(), 0
        try:
            if key in self._uncacheable:
                raise NotCachedError("it is too large")
            async for chunk in await self._cached(key, version, seconds, stack):
                given.update(chunk)
                size += len(chunk)
                yield chunk
        except (NotCachedError, OSError) as error:
            logger.warning("a skill is delivered without the cache", extra={"error": str(error)})
            self._count("uncached")
        else:
            return
        chunks = await stack.enter_async_context(self._archives.open(version, seconds=seconds))
        async for chunk in _from(chunks, size, given.digest()):
            self._metrics.downloaded.inc(len(chunk))
            yield chunk

    async def _cached(
        self, key: str, version: SkillVersion, seconds: float, stack: contextlib.AsyncExitStack
    ) -> AsyncIterator[bytes]:
        while key not in self._downloads and (kept := self._folder.get(key)) is not None:
            file = await asyncio.to_thread(open_whole, kept)
            if file is not None:
                stack.callback(file.close)
                self._count("hit")
                return _read(file)
            logger.warning("a skill's archive in the cache is damaged")
            self._count("damaged")
            self._folder.drop(key, kept)
            self._show_size()
        download = self._downloads.get(key)
        if download is None:
            self._count("miss")
            archive = self._archives.open(version, seconds=seconds)
            download = Download(archive, self._folder, key, self._listener)
            self._downloads[key] = download
        else:
            self._count("shared")
        return download.read(await stack.enter_async_context(download.joined()))

    def _left(self, download: Download) -> None:
        if self._downloads.get(download.key) is download:
            del self._downloads[download.key]
        if download.too_large:
            self._uncacheable[download.key] = None
            while len(self._uncacheable) > _MOST_UNCACHEABLE:
                del self._uncacheable[next(iter(self._uncacheable))]

    def _show_size(self) -> None:
        self._metrics.size.set(self._folder.size)

    def _count(self, outcome: str) -> None:
        self._metrics.archives.labels(outcome).inc()


def cached(
    archives: SkillArchives,
    folder: Path | None,
    *,
    mebibytes: int,
    deliveries: int,
    metrics: SkillCacheMetrics,
) -> SkillArchives:
    """Return the archives with a cache in `folder`, or as they are if the cache is off or has no disk."""
    if folder is None or mebibytes == 0:
        return archives
    try:
        kept = SkillFolder(folder, mebibytes << 20)
    except OSError as error:
        logger.warning(
            "skills are not cached, because the folder cannot be used",
            extra={"folder": str(folder), "error": error.strerror},
        )
        return archives
    return CachedSkillArchives(archives, kept, deliveries=deliveries, metrics=metrics)


def _key(version: SkillVersion) -> str:
    return hashlib.sha256(f"{version.skill_id}\0{version.version_id}".encode()).hexdigest()


async def _read(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk


async def _from(chunks: AsyncIterator[bytes], start: int, digest: bytes) -> AsyncIterator[bytes]:
    """Yield what follows the first `start` bytes, which must be those with this digest."""
    before, left = hashlib.sha256(), start
    async for chunk in chunks:
        before.update(chunk[:left])
        rest, left = chunk[left:], max(0, left - len(chunk))
        if left == 0 and start and before.digest() != digest:
            break
        if left == 0:
            start = 0
            if rest:
                yield rest
    if start:
        raise OperationError(
            ErrorKind.TRANSIENT,
            Reason.ENVIRONMENT_UNREACHABLE,
            "Anthropic answered skill download with other content than before",
        )
