"""A real HTTP server that notes each request with its headers, and answers with a text."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Received:
    """A request: its first line, and its headers by lower-case name."""

    line: str
    headers: dict[str, list[str]]


class EchoServer:
    """Serves on 127.0.0.1 for as long as the `async with` block lasts.

    Args:
        answer: what every request is answered with.
    """

    def __init__(self, answer: str = "served\n") -> None:
        self._answer = answer.encode()
        self.requests: list[Received] = []
        self.address = ""
        """`127.0.0.1:port`."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict[str, list[str]]()
            for line in filter(None, lines):
                name, _, value = line.partition(":")
                headers.setdefault(name.strip().lower(), []).append(value.strip())
            self.requests.append(Received(first, headers))
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self._answer)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + self._answer)
            await writer.drain()
        writer.close()
