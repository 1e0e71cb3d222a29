"""What the operator does with an API key: it interrupts stuck sessions, and lists which ones live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anthropic import AsyncAnthropic
from managed_session_api.conditions import Reason

from managed_session_operator.clients.anthropic_wire import anthropic_failure, fenced_http_client
from managed_session_operator.clients.rotating_key import PLACEHOLDER, RotatingKey
from managed_session_operator.failures import Failure, Kind

_PAGE = 100
_LIST_SECONDS = 60.0
"""For all pages of the list, which changes nothing and so may outlast a Lease."""


class ApiKeySessions:
    """The sessions of the API key's workspace. Never sends a message.

    Args:
        api_key: the optional API key; it has no lines where none is configured.
        fence: raises NotLeadingError when effects must not be sent.
        timeout: seconds for one call.
    """

    def __init__(self, api_key: RotatingKey, *, fence: Callable[[], None], timeout: float) -> None:
        self._api_key = api_key
        self._fence = fence
        self._timeout = timeout

    @property
    def possible(self) -> bool:
        """Whether an API key is configured. One that can't be read must stop nothing that needs none."""
        return bool(self._api_key.lines())

    async def interrupt(self, session_id: str) -> None:
        """Send `user.interrupt`, after which Anthropic queues the session's work again.

        Raises:
            Failure: Anthropic did not take it (reason APIKeyRejected for a refused or missing key).
        """
        async with self._call("interrupt", self._timeout) as client:
            await client.beta.sessions.events.send(session_id, events=[{"type": "user.interrupt"}])

    async def living(self) -> set[str]:
        """IDs of all sessions that were not terminated, archived or deleted (raises as `interrupt`)."""
        async with self._call("session list", _LIST_SECONDS) as client:
            return {
                session.id
                async for session in client.beta.sessions.list(limit=_PAGE)
                if session.archived_at is None and session.status != "terminated"
            }

    @asynccontextmanager
    async def _call(self, operation: str, seconds: float) -> AsyncIterator[AsyncAnthropic]:
        if not self._api_key.candidates():
            raise Failure(Kind.PERSON, Reason.API_KEY_REJECTED, "there is no API key any more")
        self._fence()
        try:
            async with (
                asyncio.timeout(seconds),
                AsyncAnthropic(
                    api_key=PLACEHOLDER,
                    timeout=self._timeout,
                    max_retries=0,
                    http_client=fenced_http_client(self._fence, self._api_key),
                ) as client,
            ):
                yield client
        except Exception as error:  # noqa: BLE001 - an odd answer must not end the operator
            raise anthropic_failure(operation, error, rejected=Reason.API_KEY_REJECTED) from None
