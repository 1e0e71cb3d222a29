"""The limit on a body's size, over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from managed_session_webhook.body import MAX_BODY_BYTES
from standardwebhooks import Webhook

if TYPE_CHECKING:
    from .conftest import Harness

KEY = "whsec_" + base64.b64encode(b"webhook-signing-key-of-32-bytes!").decode()


def event_of(size: int) -> bytes:
    event = {
        "type": "event",
        "id": "whe_1",
        "created_at": "2026-03-18T14:05:22Z",
        "data": {"type": "session.updated", "id": "sesn_1"},
        "filler": "",
    }
    event["filler"] = "x" * (size - len(json.dumps(event)))
    return json.dumps(event).encode()


def headers_for(body: bytes) -> str:
    now = datetime.now(tz=UTC)
    signature = Webhook(KEY).sign("whe_1", now, body.decode())
    timestamp = int(now.timestamp())
    return f"webhook-id: whe_1\r\nwebhook-timestamp: {timestamp}\r\nwebhook-signature: {signature}\r\n"


def chunks(body: bytes, size: int = 65_536) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        part = body[start : start + size]
        yield f"{len(part):x}\r\n".encode() + part + b"\r\n"


class Connection:
    """A hand-written request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def status(self) -> int:
        line = await asyncio.wait_for(self.reader.readline(), 30)
        return int(line.split()[1])


async def begin(port: int, headers: str) -> Connection:
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    connection.writer.write(f"POST /webhook HTTP/1.1\r\nHost: webhook\r\n{headers}\r\n".encode())
    return connection


@pytest.fixture(autouse=True)
def signing_key(webhook: Harness) -> None:
    (webhook.credentials / "anthropic-webhook-signing-key").write_text(KEY)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "expected"), [(MAX_BODY_BYTES, 204), (MAX_BODY_BYTES + 1, 413)])
async def test_one_mebibyte_is_accepted_and_one_byte_more_is_not(
    webhook: Harness, size: int, expected: int, *, chunked: bool
) -> None:
    body = event_of(size)
    framing = "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {size}\r\n"
    connection = await begin(webhook.port, headers_for(body) + framing)
    if chunked:
        connection.writer.writelines((*chunks(body), b"0\r\n\r\n"))
    else:
        connection.writer.write(body)
    assert await connection.status() == expected
    connection.writer.close()


async def test_a_body_declared_too_large_is_refused_before_it_is_sent(webhook: Harness) -> None:
    connection = await begin(webhook.port, f"Content-Length: {MAX_BODY_BYTES + 1}\r\n")
    assert await connection.status() == 413
    connection.writer.close()


@pytest.mark.parametrize("headers", ["", headers_for(b"")])
async def test_an_endless_chunked_body_is_refused_while_it_is_being_sent(
    webhook: Harness, headers: str
) -> None:
    connection = await begin(webhook.port, headers + "Transfer-Encoding: chunked\r\n")
    part = next(chunks(bytes(65_536)))
    sent = 0
    answer = asyncio.create_task(connection.status())
    while not answer.done():
        connection.writer.write(part)
        await connection.writer.drain()
        await asyncio.sleep(0)
        sent += 65_536
        assert sent < 100 * MAX_BODY_BYTES
    assert await answer == 413
    connection.writer.close()


async def test_a_body_that_never_arrives_is_given_up(webhook: Harness) -> None:
    connection = await begin(webhook.port, "Content-Length: 10\r\n")
    connection.writer.write(b"12345")
    assert await connection.status() == 408
    connection.writer.close()


async def test_endless_large_bodies_do_not_delay_an_ordinary_event(webhook: Harness) -> None:
    large, small = event_of(MAX_BODY_BYTES), event_of(500)
    started = [
        await begin(webhook.port, headers_for(large) + f"Content-Length: {len(large)}\r\n") for _ in range(20)
    ]
    for connection in started:
        connection.writer.write(large[:50_000])
        await connection.writer.drain()
    ordinary = await begin(webhook.port, headers_for(small) + f"Content-Length: {len(small)}\r\n")
    ordinary.writer.write(small)
    assert await ordinary.status() == 204
    assert {await connection.status() for connection in started} == {408}
    for connection in (ordinary, *started):
        connection.writer.close()
