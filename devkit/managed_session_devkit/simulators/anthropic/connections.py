"""Connections that a fault can cut: uvicorn's HTTP protocol, which keeps track of its transports.

When a connection dies silently, this end notices as a real server does: its data is not acknowledged.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from collections.abc import Container
from typing import Any

from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

_FORGOTTEN_AFTER_SECONDS = 3
_ACKNOWLEDGED_WITHIN_SECONDS = 0.5
"""If the kernel of a local peer acknowledges nothing in that time, the peer is gone and not just busy."""

_transports: dict[tuple[str, int], asyncio.Transport] = {}
_users: dict[tuple[str, int], str] = {}


class CuttableProtocol(H11Protocol):
    """Serves HTTP/1.1, and remembers which transport belongs to which peer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection."""
        super().connection_made(transport)
        if self.client is not None:
            _transports[self.client] = transport
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
                connection.setsockopt(socket.IPPROTO_TCP, option, 1)
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _FORGOTTEN_AFTER_SECONDS * 1000
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self.client is not None:
            _transports.pop(self.client, None)
            _users.pop(self.client, None)
        super().connection_lost(exc)


def note_credential(request: Request, kind: str) -> None:
    """Remember the kind of credential that a connection's request had."""
    client: Any = request.scope.get("client")
    if client:
        _users[tuple(client)] = kind


def of_credentials(kinds: Container[str]) -> list[asyncio.Transport]:
    """Return the open connections whose last request had a credential of one of these kinds."""
    return [_transports[client] for client, kind in _users.items() if kind in kinds and client in _transports]


async def forget_if_dead(request: Request) -> bool:
    """Close the request's connection if its peer does not acknowledge what was just sent."""
    client: Any = request.scope.get("client")
    transport = _transports.get(tuple(client)) if client else None
    if transport is None:
        return True
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ACKNOWLEDGED_WITHIN_SECONDS
    while not transport.is_closing() and _unacknowledged(transport):
        if loop.time() > deadline:
            transport.abort()
            break
        await asyncio.sleep(0.01)
    return transport.is_closing()


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Return the number of bytes that the peer's kernel has not acknowledged (SIOCOUTQ, tcp(7))."""
    answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder) + transport.get_write_buffer_size()


async def cut(request: Request) -> None:
    """Reset a request's connection, and wait until the server has noticed."""
    client: Any = request.scope.get("client")
    transport = _transports.get(tuple(client)) if client else None
    if transport is None:
        return
    transport.abort()
    message = await request.receive()
    while message["type"] != "http.disconnect":
        message = await request.receive()
