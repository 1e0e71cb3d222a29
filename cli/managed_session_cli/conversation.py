"""Plays the user of a session: sends messages with Anthropic's SDK, and reads the event stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

ANSWER_SECONDS = 120.0


class NoAnswerError(Exception):
    """The agent did not answer in time, or the session ended. The text names the session."""


class Conversation:
    """One session as its user sees it; `events` are all that were received."""

    def __init__(
        self, client: "AsyncAnthropic", session_id: str, on_event: Callable[[Any], None] = lambda _: None
    ) -> None:
        self.session_id = session_id
        self.events: list[Any] = []
        self._client = client
        self._on_event = on_event
        self._changed = asyncio.Condition()
        self._turn_began = 0

    @classmethod
    @asynccontextmanager
    async def begin(
        cls,
        client: "AsyncAnthropic",
        *,
        agent_id: str,
        environment_id: str,
        title: str = "",
        on_event: Callable[[Any], None] = lambda _: None,
    ) -> AsyncIterator[Self]:
        """Create a session and read its events until the block ends. Does not delete the session."""
        session = await client.beta.sessions.create(
            agent=agent_id, environment_id=environment_id, title=title or None
        )
        async with cls.join(client, session.id, on_event=on_event) as conversation:
            yield conversation

    @classmethod
    @asynccontextmanager
    async def join(
        cls, client: "AsyncAnthropic", session_id: str, *, on_event: Callable[[Any], None] = lambda _: None
    ) -> AsyncIterator[Self]:
        """Read the events of an existing session, from now on, until the block ends."""
        conversation = cls(client, session_id, on_event)
        # Open the stream before the first message: it only has events from now on.
        stream = await client.beta.sessions.events.stream(session_id)
        reading = asyncio.create_task(conversation._read(stream), name=f"events of {session_id}")
        try:
            yield conversation
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await reading

    async def say(self, text: str, *, timeout_seconds: float = ANSWER_SECONDS) -> str:
        """Send a message, wait until the session is idle again, and return the agent's answer.

        Raises:
            NoAnswerError: that did not happen in time.
        """
        await self.send(text)
        return await self.answer(timeout_seconds=timeout_seconds)

    async def send(self, text: str) -> None:
        """Send a message without waiting."""
        message = {"type": "user.message", "content": [{"type": "text", "text": text}]}
        self._turn_began = len(self.events)
        await self._client.beta.sessions.events.send(self.session_id, events=[message])  # type: ignore[list-item]

    async def answer(self, *, timeout_seconds: float = ANSWER_SECONDS) -> str:
        """Wait until the newest message is answered and the session idle, and return the answer.

        Raises:
            NoAnswerError: that did not happen in time.
        """
        first = self._turn_began
        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(lambda: _turn_ended(self.events[first:]))
        except TimeoutError:
            seen = ", ".join(event.type for event in self.events[first:]) or "none"
            raise NoAnswerError(
                f"session {self.session_id} did not answer within {timeout_seconds:g} s; its events: {seen}"
            ) from None
        return answer_in(self.events[first:])

    async def _read(self, stream: Any) -> None:
        async with stream:
            async for event in stream:
                self.events.append(event)
                self._on_event(event)
                async with self._changed:
                    self._changed.notify_all()


def text_of(event: Any) -> str:
    """Return the text of a message or a tool's result."""
    blocks = getattr(event, "content", None) or []
    return "\n".join(block.text for block in blocks if getattr(block, "type", "") == "text").strip()


def answer_in(events: Sequence[Any]) -> str:
    """Return the agent's messages among the events, as one text."""
    return "\n".join(text_of(event) for event in events if event.type == "agent.message")


def is_end_of_turn(event: Any) -> bool:
    """Return whether the session became idle, and not because it waits for its user or a tool."""
    return bool(event.type == "session.status_idle" and event.stop_reason.type != "requires_action")


def _turn_ended(events: list[Any]) -> bool:
    answered = False
    for event in events:
        answered = answered or event.type == "agent.message"
        if event.type == "session.status_terminated":
            return True
        if answered and is_end_of_turn(event):
            return True
    return False
