"""Answers of the clouds with unknown values and fields, and a server that gives them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=6)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def odd(draw: st.DrawFn, base: dict[str, Any], kept: tuple[str, ...] = ()) -> dict[str, Any]:
    """Draw `base` with unexpected values, missing fields and unknown fields."""
    changed = dict(base)
    for name in draw(st.sets(st.sampled_from(sorted(set(base) - set(kept))))):
        if draw(st.booleans()):
            changed[name] = draw(JSON | st.just("never_seen_before") | st.just("0001-01-01T00:00:00+23:59"))
        else:
            del changed[name]
    return changed | draw(st.dictionaries(st.text(min_size=1, max_size=6), JSON, max_size=2))


class Answering:
    """A server that gives the same answer to every request, and records the requests' heads.

    `bodies` are given first, one to each request.
    """

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: object = None
        self.bodies: list[object] = []
        self.url = ""
        self.heads: list[str] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Answering]:
        """Serve until the block ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            self.heads.append(head)
            length = [line for line in head.splitlines() if line.startswith("content-length:")]
            await reader.readexactly(int(length[0].split(":")[1]) if length else 0)
            text = json.dumps(self.bodies.pop(0) if self.bodies else self.body).encode()
            headers = {"content-type": "application/json", "connection": "close", **self.headers}
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
            sized = b"%scontent-length: %d\r\n\r\n%s" % (lines, len(text), text)
            writer.write(b"HTTP/1.1 %d X\r\n%s" % (self.status, sized))
            await writer.drain()
        finally:
            writer.close()
