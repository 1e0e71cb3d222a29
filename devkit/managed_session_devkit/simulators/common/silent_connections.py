"""Kills TCP connections silently, as when a machine is paused or a NAT drops its state.

If only one end of a connection signs its segments (RFC 2385, TCP_MD5SIG), Linux drops every segment on both
sides: data, acknowledgements, FIN and RST. So one call at one end is enough, without a packet filter or
privileges. Both ends still see an established connection, whose peer never answers.
"""

from __future__ import annotations

import errno
import secrets
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket

_TCP_MD5SIG: Final = 14
_ADDRESS_BYTES: Final = 128
_KEY_BYTES: Final = 80


def silence(connection: socket.socket | TransportSocket) -> bool:
    """Block a connection in both directions. Return False if it is not a TCP connection.

    Raises:
        OSError: the kernel does not support TCP_MD5SIG.
    """
    if (
        connection.family not in (socket.AF_INET, socket.AF_INET6)
        or connection.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM
    ):
        return False
    try:
        host, port = connection.getpeername()[:2]
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return False
        raise
    key = secrets.token_bytes(16)
    signature = _address(connection.family, host, port).ljust(_ADDRESS_BYTES, b"\0")
    signature += struct.pack("=BBHi", 0, 0, len(key), 0) + key.ljust(_KEY_BYTES, b"\0")
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_MD5SIG, signature)
    return True


def _address(family: int, host: str, port: int) -> bytes:
    """The C structure `sockaddr_in` or `sockaddr_in6`."""
    head = struct.pack("=H", family) + struct.pack("!H", port)
    if family == socket.AF_INET:
        return head + socket.inet_pton(socket.AF_INET, host)
    return head + struct.pack("!I", 0) + socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
