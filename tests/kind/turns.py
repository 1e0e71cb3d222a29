"""Turns that last until the test ends them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from managed_session_cli.conversation import Conversation

from ..support.waiting import eventually
from .installation import Installation

_WORK = "Run: touch begun; until test -e go; do sleep 0.2; done; echo went"
_ANSWER = "went"


@dataclass(frozen=True)
class HeldTurn:
    """A session whose agent's command runs until `finish`."""

    installation: Installation
    conversation: Conversation
    answer: asyncio.Task[str]

    @property
    def session_id(self) -> str:
        """The session's ID."""
        return self.conversation.session_id

    async def finish(self) -> None:
        """Let the command end. Its output must be the answer, from one worker in one sandbox."""
        await self.installation.write_file(self.session_id, "/mnt/session/go")
        assert await self.answer == _ANSWER
        await self.installation.idle(self.session_id)
        await self.served_once()

    async def served_once(self) -> None:
        """Assert that there was one worker at a time and one sandbox, and each result was posted once."""
        report = await self.installation.clouds.anthropic_admin.session(self.session_id)
        assert report.counts["worker_streams_overlapping"] == 0
        assert report.counts["results_repeated"] == 0
        assert len(await self.installation.clouds.sandboxes_of(self.session_id)) == 1


@contextlib.asynccontextmanager
async def held_turn(installation: Installation) -> AsyncIterator[HeldTurn]:
    """Begin a session, and yield it when its command runs in the sandbox."""
    async with installation.clouds.begin() as conversation:
        answer = asyncio.create_task(conversation.say(_WORK, timeout_seconds=240))
        try:

            async def begun() -> bool:
                return await installation.has_file(conversation.session_id, "/mnt/session/begun")

            await eventually("the command runs in the sandbox", begun, seconds=60)
            yield HeldTurn(installation, conversation, answer)
        finally:
            answer.cancel()
