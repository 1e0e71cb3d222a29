"""A leader whose Lease expired between its check and its send sends no request to Anthropic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from managed_session_operator.clients.anthropic.work_queue import WorkQueue
from managed_session_operator.domain.errors import NotLeadingError

from .examples import key


class Listener:
    """Accepts connections, and keeps what they send."""

    def __init__(self) -> None:
        self.connections = 0
        self.received = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while chunk := await reader.read(65536):
            self.received += chunk
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()


@pytest.fixture
async def listener(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://{host}:{port}")
    yield listener
    server.close()


async def test_no_stop_is_sent_if_the_lease_expires_while_connecting(
    listener: Listener,
) -> None:
    def fence() -> None:
        if listener.connections:
            raise NotLeadingError

    queue = WorkQueue(lambda: "env_1", key(), worker_id="test", fence=fence, timeout=5)
    with pytest.raises(NotLeadingError):
        await queue.stop("sesn_01")
    assert listener.connections == 1
    assert listener.received == b""


async def test_a_leader_sends_a_stop(listener: Listener) -> None:
    queue = WorkQueue(lambda: "env_1", key(), worker_id="test", fence=lambda: None, timeout=5)
    await queue.stop("sesn_01")
    assert b"/work/sesn_01/stop" in listener.received


async def test_a_call_ends_by_its_deadline_even_if_the_answer_trickles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.05)

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://{host}:{port}")
    queue = WorkQueue(lambda: "env_1", key(), worker_id="test", fence=lambda: None, timeout=0.5)
    with pytest.raises(Exception, match="could not be reached for stop"):
        await asyncio.wait_for(queue.stop("sesn_01"), 60)
    server.close()
