"""How the operator reads E2B's answers and ends its calls, as a server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.domain.errors import ErrorKind, OperationError, UnderWayError
from managed_session_operator.domain.sandbox import SandboxRequest

from ...support.waiting import eventually
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


async def test_only_sandboxes_with_the_metadata_are_listed_even_if_the_server_does_not_filter(
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


ENDS = ["its deadline", "a cancellation"]


@pytest.mark.parametrize("ended_by", ENDS)
@pytest.mark.parametrize("operation", ["create", "connect", "pause"])
async def test_a_slow_call_is_not_cut_off_and_the_next_reconcile_joins_it(
    monkeypatch: pytest.MonkeyPatch, operation: str, ended_by: str
) -> None:
    """E2B treats a closed connection as a cancellation, and a second create would make a second sandbox."""
    arrived, go_on = asyncio.Event(), asyncio.Event()
    cut_off = list[bool]()

    async def answer(request: str, reader: asyncio.StreamReader) -> tuple[int, object]:
        if not request.startswith("POST"):
            return 200, _sandbox("iours", OURS, "paused" if operation == "connect" else "running")
        arrived.set()
        await go_on.wait()
        # A client that still waits for the answer sends nothing, and keeps its connection open.
        try:
            cut_off.append(await asyncio.wait_for(reader.read(1), 0.05) == b"")
        except TimeoutError:
            cut_off.append(False)
        return (204, None) if operation == "pause" else (201, _sandbox("iours", OURS))

    async with _e2b(monkeypatch, answer):
        sandboxes = _sandboxes(create_timeout=0.2 if ended_by == "its deadline" else 5)
        waiting = asyncio.create_task(_ask(sandboxes, operation))
        await arrived.wait()
        if ended_by == "a cancellation":
            waiting.cancel()
        outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
        assert isinstance(outcome, UnderWayError | asyncio.CancelledError)
        joined = asyncio.create_task(_ask(sandboxes, operation))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(joined, return_exceptions=True)
        await sandboxes.calls_answered(30)
    assert cut_off == [False], "one call, heard to its end"


@pytest.mark.parametrize("operation", ["create", "connect", "pause"])
async def test_a_call_that_is_answered_while_no_step_waits_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    sent, go_on = 0, asyncio.Event()

    async def answer(request: str, _: asyncio.StreamReader) -> tuple[int, object]:
        nonlocal sent
        if not request.startswith("POST"):
            return 200, _sandbox("iours", OURS, "paused" if go_on.is_set() else "running")
        sent += 1
        await go_on.wait()
        return (204, None) if operation == "pause" else (201, _sandbox("iours", OURS))

    async with _e2b(monkeypatch, answer):
        sandboxes = _sandboxes(create_timeout=0.2)
        with pytest.raises(UnderWayError):
            await _ask(sandboxes, operation)
        go_on.set()
        await sandboxes.calls_answered(30)
        heard: Any = await _ask(sandboxes, operation)
        assert heard.sandbox_id == "iours"
        assert sent == 1
        await _ask(sandboxes, operation)
    assert sent == 2, "the answer is given once"


async def _ask(sandboxes: Sandboxes, operation: str) -> object:
    match operation:
        case "create":
            wanted = SandboxRequest("t", 60, OURS, {}, (), (), auto_resume=False, allow_public_traffic=True)
            return await sandboxes.create(wanted, "0" * 64)
        case "connect":
            return await sandboxes.connect("iours", 60)
    return await sandboxes.pause("iours")


async def test_a_missing_answer_is_not_awaited_if_the_sandbox_is_seen_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connects, arrived = 0, asyncio.Event()

    async def answer(request: str, reader: asyncio.StreamReader) -> tuple[int, object]:
        nonlocal connects
        if request.startswith("POST"):
            connects += 1
            arrived.set()
            if connects == 1:
                await reader.read(1)
            return 200, _sandbox("iours", OURS)
        return 200, _sandbox("iours", OURS, "running")

    async with _e2b(monkeypatch, answer):
        sandboxes = _sandboxes(create_timeout=0.2)
        for _ in range(2):
            with pytest.raises(UnderWayError):
                await sandboxes.connect("iours", 60)
            await arrived.wait()
        assert connects == 1, "the open call is joined at first: it may only be slow"

        async def connected() -> str | None:
            with contextlib.suppress(UnderWayError):
                return (await sandboxes.connect("iours", 60)).sandbox_id
            return None

        assert await eventually("another call is answered", connected) == "iours"


@pytest.mark.parametrize(
    ("state", "kind"),
    [("running", ErrorKind.STALE), ("paused", ErrorKind.TRANSIENT), (None, ErrorKind.NOT_FOUND)],
)
async def test_a_404_of_connect_is_confirmed_first(
    monkeypatch: pytest.MonkeyPatch, state: str | None, kind: ErrorKind
) -> None:
    async def answer(request: str, _: asyncio.StreamReader) -> tuple[int, object]:
        if request.startswith("POST") or state is None:
            return 404, {"code": 404, "message": "not found"}
        return 200, _sandbox("iours", OURS, state)

    async with _e2b(monkeypatch, answer):
        with pytest.raises(OperationError) as failed:
            await _sandboxes().connect("iours", 60)
    assert failed.value.kind is kind


async def test_an_answer_about_another_sandbox_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_: str, __: asyncio.StreamReader) -> tuple[int, object]:
        return 201, _sandbox("ianother", OURS)

    async with _e2b(monkeypatch, answer):
        with pytest.raises(OperationError, match="ianother") as failed:
            await _sandboxes().connect("iours", 60)
    assert failed.value.kind is ErrorKind.NOT_FOUND
