"""Connections that a fault can cut: uvicorn's HTTP protocol, with a register of its transports."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

_transports: dict[tuple[str, int], asyncio.Transport] = {}


class CuttableProtocol(H11Protocol):
    """Serves HTTP/1.1 and remembers which transport belongs to which peer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection."""
        super().connection_made(transport)
        if self.client is not None:
            _transports[self.client] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self.client is not None:
            _transports.pop(self.client, None)
        super().connection_lost(exc)


async def cut(request: Request) -> None:
    """Reset the connection of a request and wait until the server has noticed."""
    client: Any = request.scope.get("client")
    transport = _transports.get(tuple(client)) if client else None
    if transport is None:
        return
    transport.abort()
    message = await request.receive()
    while message["type"] != "http.disconnect":
        message = await request.receive()
