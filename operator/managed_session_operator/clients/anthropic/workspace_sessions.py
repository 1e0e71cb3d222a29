"""Interrupts stuck sessions and lists living ones, with an API key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anthropic import AsyncAnthropic
from managed_session_api.conditions import Reason

from managed_session_operator.clients.anthropic.wire import anthropic_error, fenced_http_client
from managed_session_operator.clients.rotating_key import PLACEHOLDER, RotatingKey
from managed_session_operator.domain.errors import ErrorKind, OperationError

_PAGE = 100
_LIST_SECONDS = 60.0
"""Timeout for all pages of the list. Reads may outlast a Lease, because they change nothing."""


class WorkspaceSessions:
    """Sessions of the API key's workspace. Never sends messages.

    Args:
        api_key: the optional API key. It has no lines if it is not configured.
        fence: raises NotLeadingError if effects must not be sent.
        timeout: timeout of one call in seconds.
    """

    def __init__(self, api_key: RotatingKey, *, fence: Callable[[], None], timeout: float) -> None:
        self._api_key = api_key
        self._fence = fence
        self._timeout = timeout

    @property
    def possible(self) -> bool:
        """Whether an API key is configured and can be read. What needs no key must not fail without one."""
        return bool(self._api_key.lines())

    async def interrupt(self, session_id: str) -> None:
        """Send `user.interrupt`. Anthropic then queues the session's work again.

        Raises:
            OperationError: Anthropic rejected it. The reason is APIKeyRejected for a rejected or missing key.
        """
        async with self._call("interrupt", self._timeout) as client:
            await client.beta.sessions.events.send(session_id, events=[{"type": "user.interrupt"}])

    async def living(self) -> set[str]:
        """Return the IDs of all sessions that have not ended (raises as `interrupt`)."""
        async with self._call("session list", _LIST_SECONDS) as client:
            return {
                session.id
                async for session in client.beta.sessions.list(limit=_PAGE)
                if session.archived_at is None and session.status != "terminated"
            }

    @asynccontextmanager
    async def _call(self, operation: str, seconds: float) -> AsyncIterator[AsyncAnthropic]:
        if not self._api_key.candidates():
            raise OperationError(
                ErrorKind.USER_ACTION, Reason.API_KEY_REJECTED, "The API key has been removed."
            )
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
        except Exception as error:  # noqa: BLE001 - an odd response must not end the operator
            raise anthropic_error(operation, error, rejected=Reason.API_KEY_REJECTED) from None
