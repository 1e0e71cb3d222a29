"""What leaves a sandbox: its allowed destinations, and the headers that are added on the way.

E2B intercepts the traffic of a virtual machine. Simulated sandboxes share the host's network, so their
programs are led to this proxy by variables instead (`http_proxy`), with the sandbox's ID as the user name in
its URL. It forwards plain HTTP, whose requests get the headers, and CONNECT, which it does not intercept.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from managed_session_devkit.simulators.common.times import timestamp
from managed_session_devkit.simulators.e2b.network import added_headers, reachable

_MOST_REQUESTS: Final = 10_000
_BLOCK: Final = 65_536
_WHO_ASKS: Final = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
    b'Proxy-Authenticate: Basic realm="sandbox"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
)
_HOP: Final = ("proxy-authorization", "proxy-connection", "connection")


@dataclass(frozen=True)
class _Head:
    """The first line and the headers of a request."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, content: bytes) -> _Head:
        """Read it. Raises ValueError."""
        first, *lines = content.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines if line)
        return cls(method, target, tuple((name.strip(), value.strip()) for name, _, value in pairs))

    def get(self, name: str) -> str:
        """Return a header's value; "" if it is absent."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    def sent_on(self, target: str, added: Mapping[str, str]) -> bytes:
        """Return what is sent to the destination. An added header replaces one of the same name."""
        replaced = {*_HOP, *(name.lower() for name in added)}
        kept = [(name, value) for name, value in self.headers if name.lower() not in replaced]
        lines = [f"{name}: {value}" for name, value in [*kept, *added.items(), ("Connection", "close")]]
        return "\r\n".join([f"{self.method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1")


class EgressProxy:
    """Serves on the loopback address for as long as the simulator runs.

    Args:
        policy: returns a sandbox's network policy; None if it does not run.
        destinations: returns which names lead where: `name:port` to `address:port`.
    """

    def __init__(
        self,
        policy: Callable[[str], Mapping[str, Any] | None],
        destinations: Callable[[], Mapping[str, str]],
    ) -> None:
        self._policy = policy
        self._destinations = destinations
        self._server: asyncio.Server | None = None
        self.requests: list[dict[str, Any]] = []
        """What sandboxes have requested, in order. Of added headers only the names are kept."""

    async def open(self) -> None:
        """Start to serve."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()

    def variables(self, sandbox_id: str) -> dict[str, str]:
        """Return the variables that lead a sandbox's programs here."""
        assert self._server is not None
        url = f"http://{sandbox_id}:@127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return {"http_proxy": url, "https_proxy": url, "HTTP_PROXY": url, "HTTPS_PROXY": url}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = _Head.parse(await reader.readuntil(b"\r\n\r\n"))
            await self._forward(head, reader, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            with suppress(OSError, RuntimeError):
                writer.close()

    async def _forward(self, head: _Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not head.get("proxy-authorization"):
            # git says whose traffic it is only when it is asked.
            writer.write(_WHO_ASKS)
            return
        sandbox_id = _user(head.get("proxy-authorization"))
        policy = self._policy(sandbox_id)
        url = urlsplit(f"//{head.target}" if head.method == "CONNECT" else head.target)
        host, port = url.hostname or "", url.port or 80
        allowed = policy is not None and reachable(policy, host)
        added = added_headers(policy, host) if policy is not None and allowed else {}
        self._note(sandbox_id, head.method, host, port, allowed, added)
        if not allowed:
            # E2B drops the connection. Without an answer, the program sees the same.
            return
        upstream_reader, upstream = await self._connect(host, port)
        try:
            if head.method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = (url.path or "/") + (f"?{url.query}" if url.query else "")
                upstream.write(head.sent_on(path, added))
            async with asyncio.TaskGroup() as both:
                both.create_task(_relay(reader, upstream))
                both.create_task(_relay(upstream_reader, writer))
        finally:
            upstream.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address, _, other = self._destinations().get(f"{host}:{port}", f"{host}:{port}").rpartition(":")
        return await asyncio.open_connection(address.strip("[]"), int(other))

    def _note(
        self, sandbox_id: str, method: str, host: str, port: int, allowed: bool, added: Mapping[str, str]
    ) -> None:
        self.requests.append(
            {
                "at": timestamp(),
                "sandboxID": sandbox_id,
                "method": method,
                "host": host,
                "port": port,
                "allowed": allowed,
                "addedHeaders": sorted(added),
            }
        )
        del self.requests[:-_MOST_REQUESTS]


def _user(authorization: str) -> str:
    kind, _, encoded = authorization.partition(" ")
    try:
        return base64.b64decode(encoded).decode().partition(":")[0] if kind == "Basic" else ""
    except (binascii.Error, UnicodeDecodeError):
        return ""


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while content := await reader.read(_BLOCK):
            writer.write(content)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        if writer.can_write_eof():
            writer.write_eof()
