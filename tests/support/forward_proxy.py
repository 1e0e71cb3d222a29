"""A real forward proxy: CONNECT tunnels, and plain HTTP by absolute URL. It notes who was asked for."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

_REFUSAL = (
    b'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="proxy"\r\n'
    b"Connection: close\r\nContent-Length: 0\r\n\r\n"
)


class ForwardProxy:
    """Serves on 127.0.0.1 for as long as the `async with` block lasts.

    Args:
        hosts: names that lead to a port of this machine, `name:port` to port; others are looked up.
        login: `user:password` that it demands; None for nothing.
    """

    def __init__(self, hosts: dict[str, int] | None = None, login: str | None = None) -> None:
        self._hosts = hosts or {}
        self._login = login
        self.asked: list[str] = []
        """`host:port` of each request, in order."""
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if not self._allows(head):
                writer.write(_REFUSAL)
                return
            method, target, version = head.split(b"\r\n", 1)[0].decode().split(" ")
            if method == "CONNECT":
                authority, first = target, b""
            else:
                url = urlsplit(target)
                authority = f"{url.hostname}:{url.port or 80}"
                path = (url.path or "/") + (f"?{url.query}" if url.query else "")
                # One request a connection: the next one may go elsewhere.
                line = f"{method} {path} {version}\r\nConnection: close\r\n".encode()
                first = line + head.split(b"\r\n", 1)[1]
            self.asked.append(authority)
            host, port = authority.rsplit(":", 1)
            if authority in self._hosts:
                host, port = "127.0.0.1", str(self._hosts[authority])
            upstream_reader, upstream = await asyncio.open_connection(host.strip("[]"), int(port))
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            upstream.write(first)
            async with asyncio.TaskGroup() as both:
                both.create_task(_relay(reader, upstream))
                both.create_task(_relay(upstream_reader, writer))
        except (OSError, ValueError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _allows(self, head: bytes) -> bool:
        if self._login is None:
            return True
        expected = b"proxy-authorization: basic " + base64.b64encode(self._login.encode())
        return any(line.lower() == expected.lower() for line in head.split(b"\r\n"))


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while content := await reader.read(65536):
            writer.write(content)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.close()
