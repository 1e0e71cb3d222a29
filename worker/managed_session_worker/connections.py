"""Ends connections whose peer is gone, instead of waiting for it.

A pause of the sandbox, a lost network or a NAT that drops its state leaves connections half-open: no reset
arrives, and the SDK waits ten minutes for the next byte. This module makes a dead connection fail as if it
had been reset. The SDK's own retries do the rest: they reopen the event stream, read the history once more,
and send heartbeats and results again.
"""

import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from anthropic import DefaultAsyncHttpxClient

from managed_session_worker.worker_log import logger

STREAM_SECONDS = 30.0
"""How long the event stream may be silent. The platform sends pings on it."""
QUIET_STREAM_SECONDS = 240.0
"""The longest such time: if no pings arrive, the stream is reopened less and less often."""
READ_SECONDS = 60.0
"""Limits for all other calls; the SDK's own are 600 s."""
WRITE_SECONDS = 30.0
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
)
"""The kernel probes an idle connection after 10 s, and gives one up after 20 s without acknowledgement."""
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where distributions have the system's store as one file."""
_STREAM_PATH = "/events/stream"

Trace = Callable[[str, dict[str, Any]], Awaitable[None]]


class StreamTimeout:
    """Decides how long an event stream may be silent.

    If a stream brings nothing at all, the platform sends no pings or few of them, and the next stream gets
    twice as long. After a stream that has brought something, the shortest time applies again.
    """

    def __init__(self) -> None:
        self.seconds = STREAM_SECONDS

    def silent(self, lived: float) -> None:
        """Adapt to a stream that was given up as silent, `lived` seconds after its answer began."""
        if lived < self.seconds * 1.2:
            self.seconds = min(self.seconds * 2, QUIET_STREAM_SECONDS)
        else:
            self.seconds = STREAM_SECONDS


class Connections:
    """Makes the HTTP client for one run of the SDK's worker, and keeps track of its connections."""

    def __init__(self, proxy: str | None = None, authorities: str | None = None) -> None:
        self._proxy = proxy
        self._authorities = authorities
        self._sockets: list[Any] = []
        self._stream_timeout = StreamTimeout()

    def client(self) -> DefaultAsyncHttpxClient:
        """Return the SDK's own HTTP client with the limits of this module. The caller closes it.

        It ignores the environment, whose proxies and certificates are for the agent's commands. Its own come
        with the start request.
        """
        own: dict[str, Any] = {}
        if self._proxy is not None:
            own["proxy"] = self._proxy
        if self._authorities is not None:
            own["verify"] = trusting(self._authorities)
        return DefaultAsyncHttpxClient(trust_env=False, event_hooks={"request": [self._prepare]}, **own)

    def reset(self, why: str) -> None:
        """Shut down all connections at once. Calls that wait on one fail, and the SDK retries them."""
        ended = 0
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
                ended += 1
        self._sockets.clear()
        logger.info("closed %d connections, to be reopened (%s)", ended, why)

    async def _prepare(self, request: Any) -> None:
        """Set the limits of a request before it is sent, and watch for a connection that it opens."""
        stream = request.url.path.endswith(_STREAM_PATH)
        timeout = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {
            **timeout,
            "read": self._stream_timeout.seconds if stream else _least(timeout.get("read"), READ_SECONDS),
            "write": _least(timeout.get("write"), WRITE_SECONDS),
        }
        request.extensions["trace"] = self._trace(stream=stream)

    def _trace(self, *, stream: bool) -> Trace:
        began = time.monotonic()

        async def trace(event: str, information: dict[str, Any]) -> None:
            nonlocal began
            if event == "connection.connect_tcp.complete":
                self._connected(information["return_value"].get_extra_info("socket"))
            elif stream and event.endswith(".receive_response_body.started"):
                began = time.monotonic()
            elif (
                stream
                and event.endswith(".receive_response_body.failed")
                and type(information["exception"]).__name__ == "ReadTimeout"
            ):
                self._stream_timeout.silent(time.monotonic() - began)

        return trace

    def _connected(self, connection: Any) -> None:
        self._sockets = [each for each in self._sockets if each.fileno() != -1]
        if connection is None:
            return
        self._sockets.append(connection)
        with suppress(OSError):  # Without these options a dead connection is noticed later.
            for option in _SOCKET_OPTIONS:
                connection.setsockopt(*option)


def trusting(authorities: str) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities and these (PEM).

    Whatever variables say, so that nobody but root decides whom the worker trusts.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for bundle in _SYSTEM_BUNDLES:
        with suppress(OSError):  # Not every image has the file, and what is in one may be unreadable.
            context.load_verify_locations(cafile=bundle)
    context.load_verify_locations(cadata=authorities)
    return context


def _least(given: float | None, most: float) -> float:
    return most if given is None else min(given, most)
