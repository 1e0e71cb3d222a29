"""The common part of the clients of both control surfaces (`/_simulator/…`)."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx


class ControlClient:
    """A client of a simulator's control surface. It uses no proxy; close it after use."""

    def __init__(self, url: str, *, timeout_seconds: float = 30) -> None:
        self.url = url
        self._http = httpx.AsyncClient(base_url=f"{url}/_simulator", timeout=timeout_seconds, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, method: str, path: str, body: Any, query: dict[str, str | None]) -> httpx.Response:
        parameters = {name: value for name, value in query.items() if value is not None}
        return await self._http.request(method, path, json=body, params=parameters)
