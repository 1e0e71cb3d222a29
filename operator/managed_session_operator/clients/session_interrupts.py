"""The one thing that the operator does with an API key: it interrupts sessions that are stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from anthropic import AsyncAnthropic
from managed_session_api.conditions import Reason
from pydantic import SecretStr

from managed_session_operator.clients.anthropic_wire import anthropic_failure, fenced_http_client


class SessionInterrupts:
    """Sends `user.interrupt`, after which Anthropic queues the session's work again; never a message.

    Args:
        api_key: returns the optional API key, read afresh; None where none is configured.
        fence: raises NotLeadingError when effects must not be sent.
        timeout: seconds for one call.
    """

    def __init__(
        self, api_key: Callable[[], SecretStr | None], *, fence: Callable[[], None], timeout: float
    ) -> None:
        self._api_key = api_key
        self._fence = fence
        self._timeout = timeout

    @property
    def possible(self) -> bool:
        """Whether an API key is configured."""
        return self._api_key() is not None

    async def send(self, session_id: str) -> bool:
        """Interrupt the session; False where no API key is configured.

        Raises:
            Failure: Anthropic did not take it (reason APIKeyRejected for a refused key).
        """
        key = self._api_key()
        if key is None:
            return False
        self._fence()
        try:
            async with (
                AsyncAnthropic(
                    api_key=key.get_secret_value(),
                    timeout=self._timeout,
                    max_retries=0,
                    http_client=fenced_http_client(self._fence),
                ) as client,
                asyncio.timeout(self._timeout),
            ):
                await client.beta.sessions.events.send(session_id, events=[{"type": "user.interrupt"}])
        except Exception as error:  # noqa: BLE001 - an odd answer must not end the operator
            raise anthropic_failure("interrupt", error, rejected=Reason.API_KEY_REJECTED) from None
        return True
