"""What the operator takes from E2B's answers, and how it ends its calls, seen by a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from managed_session_operator.clients.sandboxes import Sandboxes
from managed_session_operator.failures import Failure

from .examples import key

Answer = Callable[[str, asyncio.StreamReader], Awaitable[tuple[int, object]]]

OURS = {"managedagents.dev/installation": "ours"}


def _sandbox(sandbox_id: str, metadata: dict[str, str] | None, state: str = "running") -> dict[str, object]:
    times = {"startedAt": "2026-11-25T10:00:00Z", "endAt": "2026-11-25T11:00:00Z"}
    size = {"cpuCount": 2, "memoryMB": 1024, "diskSizeMB": 1024, "envdVersion": "0.6.13"}
    names = {"templateID": "template", "sandboxID": sandbox_id, "clientID": "client", "state": state}
    return {**names, **times, **size, **({"metadata": metadata} if metadata is not None else {})}


@pytest.fixture(autouse=True)
def _plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_HTTP_VERSION", "1.1")


@asynccontextmanager
async def _e2b(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = [line for line in head.lower().splitlines() if line.startswith("content-length:")]
            await reader.readexactly(int(length[0].split(":")[1]) if length else 0)
            status, body = await answer(head.splitlines()[0], reader)
            text = json.dumps(body).encode() if body is not None else b""
            kind = b"content-type: application/json\r\nconnection: close\r\n"
            writer.write(b"HTTP/1.1 %d X\r\n%scontent-length: %d\r\n\r\n%s" % (status, kind, len(text), text))
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    monkeypatch.setenv("E2B_API_URL", f"http://{host}:{port}")
    try:
        yield
    finally:
        server.close()


def _sandboxes(create_timeout: float = 5) -> Sandboxes:
    return Sandboxes(
        key("e2b_" + "0" * 40), fence=lambda: None, request_timeout=5, create_timeout=create_timeout
    )


async def test_only_sandboxes_that_carry_the_marks_are_listed_whatever_the_server_filters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = [
        _sandbox("iours", {**OURS, "more": "x"}),
        _sandbox("itheirs", {"managedagents.dev/installation": "theirs"}),
        _sandbox("ibyhand", None),
    ]

    async def answer(_: str, __: asyncio.StreamReader) -> tuple[int, object]:
        return 200, listed

    async with _e2b(monkeypatch, answer):
        assert [view.sandbox_id for view in await _sandboxes().list(OURS)] == ["iours"]


@pytest.mark.parametrize("ended_by", ["its deadline", "a cancellation"])
async def test_a_pause_is_not_cut_off_by(monkeypatch: pytest.MonkeyPatch, ended_by: str) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()
    cut_off = list[bool]()

    async def answer(request: str, reader: asyncio.StreamReader) -> tuple[int, object]:
        if not request.startswith("POST"):
            return 200, _sandbox("iours", OURS, "running")
        arrived.set()
        await go_on.wait()
        # Whoever is still there to hear the answer sends nothing and has not hung up.
        try:
            cut_off.append(await asyncio.wait_for(reader.read(1), 0.05) == b"")
        except TimeoutError:
            cut_off.append(False)
        return 204, None

    async with _e2b(monkeypatch, answer):
        sandboxes = _sandboxes(create_timeout=0.2 if ended_by == "its deadline" else 5)
        pausing = asyncio.create_task(sandboxes.pause("iours"))
        await arrived.wait()
        if ended_by == "a cancellation":
            pausing.cancel()
        outcome = (await asyncio.gather(pausing, return_exceptions=True))[0]
        assert isinstance(outcome, Failure | asyncio.CancelledError)
        go_on.set()
        await sandboxes.pauses_answered(5)
    assert cut_off == [False]
