"""Resolves and downloads skills from Anthropic's API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from anthropic import AsyncAnthropic

from managed_session_operator.domain.session import SkillReference, SkillVersion

CHUNK_BYTES = 2 * 1024 * 1024
"""Size of the part of a download that is in memory. Uploads meet the timeout of a call from 1.7 Mbit/s on."""

Call = Callable[[str, float | None], AbstractAsyncContextManager[tuple[AsyncAnthropic, str]]]


class SkillArchives:
    """Downloads skills. Anthropic requires the environment key for this; a session token is not enough.

    Args:
        call: opens a call with the environment key, given the operation and a timeout in seconds.
        downloads: maximum number of concurrent downloads, over all sessions.
    """

    def __init__(self, call: Call, *, downloads: int) -> None:
        self._call = call
        self._turns = asyncio.Semaphore(downloads)

    async def resolve(self, reference: SkillReference) -> SkillVersion:
        """Return the version that is meant (raises OperationError, of kind NOT_FOUND if there is none)."""
        async with self._call("skill version", None) as (client, _):
            version = await client.beta.skills.versions.retrieve(
                reference.version, skill_id=reference.skill_id
            )
            return SkillVersion(reference.skill_id, version.id, version.name)

    @asynccontextmanager
    async def open(self, version: SkillVersion, *, seconds: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the archive in chunks of `CHUNK_BYTES`, of which one is in memory at a time.

        Args:
            version: version to download.
            seconds: timeout of the whole download, including what the caller does between chunks, but not the
                wait for other downloads.

        Raises:
            OperationError: the download failed or took too long.
        """
        async with (
            self._turns,
            self._call("skill download", seconds) as (client, _),
            client.beta.skills.versions.with_streaming_response.download(
                version.version_id, skill_id=version.skill_id
            ) as answer,
        ):
            yield answer.iter_bytes(CHUNK_BYTES)

    def forget(self, version: SkillVersion) -> None:
        """Do nothing: each archive is downloaded anew."""
