"""Opens connections to the Kubernetes API server: verifies them, detects dead ones, and uses proxies.

- The certificate's chain and host name are always verified. Python 3.13 also rejects certificates without
  the extensions of RFC 5280 (`ssl.VERIFY_X509_STRICT`: "Missing Authority Key Identifier"). The API servers
  of some distributions lack them, so this check alone is off, as it is in Kubernetes' own clients.
- A connection whose other end disappeared without a FIN, or that a NAT has dropped, ends after
  SILENT_SECONDS, whether or not a call is in progress.
- Connections are direct, whatever the usual proxy variables say. A kubeconfig's `proxy-url`, or the setting,
  names a proxy for the API server.
"""

from __future__ import annotations

import socket
from typing import Any

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

SILENT_SECONDS = 15
"""Seconds without an answer from the other end's kernel after which a connection counts as dead."""

_PROBE_AFTER_SECONDS = 10
_PROBE_EVERY_SECONDS = 5


def guarded_socket(address: Any) -> socket.socket:
    """Create a socket that notices when its other end is gone, for aiohttp's `socket_factory`."""
    family, kind, protocol, *_ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _PROBE_AFTER_SECONDS),
        ("TCP_KEEPINTVL", _PROBE_EVERY_SECONDS),
        # Linux: applies to probes and to unacknowledged data (tcp(7)).
        ("TCP_USER_TIMEOUT", SILENT_SECONDS * 1000),
    ):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


class ApiServerRest(RESTClientObject):
    """The HTTP layer of the Kubernetes library, with connections as described above.

    Args:
        configuration: the API server's address and how to verify it.
        bearer: whether to add the configuration's newest token to each request. The library's own client does
            this itself.
    """

    def __init__(self, configuration: Configuration, *, bearer: bool = False) -> None:
        configuration.disable_strict_ssl_verification = True
        super().__init__(configuration)
        self._bearer = bearer

    def open_session(
        self, response_class: type[aiohttp.ClientResponse] = aiohttp.ClientResponse
    ) -> aiohttp.ClientSession:
        """Open a new session, which returns responses of this class. The caller has to close it."""
        return self._create_pool_manager(response_class)

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=guarded_socket)

    def _create_pool_manager(
        self, response_class: type[aiohttp.ClientResponse] = aiohttp.ClientResponse
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            response_class=response_class,
            connector=self._create_connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            proxy=self.proxy,
            # Kubernetes' objects exceed aiohttp's default buffer.
            read_bufsize=2**21,
            middlewares=(self._authorize,) if self._bearer else (),
        )

    async def _authorize(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        token = await self.configuration.get_api_key_with_prefix("BearerToken")
        if token:
            request.headers["Authorization"] = token
        return await send(request)
