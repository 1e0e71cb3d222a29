"""How network rules reach a running sandbox, and what E2B's answers mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from managed_session_api.conditions import Reason
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.domain.errors import ErrorKind, NotLeadingError, OperationError
from managed_session_operator.domain.sandbox import SandboxNetwork
from pydantic import SecretStr

from .examples import key


@asynccontextmanager
async def answering(
    monkeypatch: pytest.MonkeyPatch, status: int, message: str = "no"
) -> AsyncIterator[list[tuple[str, Any]]]:
    """A server that answers everything with this status, and the calls that it has received."""
    calls: list[tuple[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.lower().splitlines() if line.startswith("content-length:"))
        sent = json.loads(await reader.readexactly(int(length.split(":")[1])))
        calls.append((head.splitlines()[0].rpartition(" ")[0], sent))
        text = b"" if status == 204 else json.dumps({"code": status, "message": message}).encode()
        head_out = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\nconnection: close\r\n" % status
        length_out = b"" if status == 204 else b"content-length: %d\r\n" % len(text)
        writer.write(head_out + length_out + b"\r\n" + text)
        await writer.drain()
        writer.close()

    monkeypatch.setenv("E2B_HTTP_VERSION", "1.1")
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    monkeypatch.setenv("E2B_API_URL", f"http://{host}:{port}")
    try:
        yield calls
    finally:
        server.close()


def sandboxes(fence: Any = lambda: None) -> Sandboxes:
    return Sandboxes(key(), fence=fence, request_timeout=5, create_timeout=5)


@pytest.mark.parametrize(
    ("allow", "deny", "expected"),
    [
        ([], ["10.0.0.0/8"], {"denyOut": ["10.0.0.0/8"]}),
        (["a.example"], ["0.0.0.0/0"], {"allowOut": ["a.example"], "denyOut": ["0.0.0.0/0"]}),
        ([], [], {}),
    ],
)
async def test_all_rules_are_replaced_in_one_call(
    monkeypatch: pytest.MonkeyPatch, allow: list[str], deny: list[str], expected: dict[str, Any]
) -> None:
    async with answering(monkeypatch, 204) as calls:
        await sandboxes().update_network("iours", SandboxNetwork(tuple(allow), tuple(deny)))
    ((request, sent),) = calls
    assert request == "PUT /sandboxes/iours/network"
    assert {name: rules for name, rules in sent.items() if rules} == expected


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, ErrorKind.USER_ACTION, Reason.SANDBOX_REQUEST_REJECTED),
        (500, ErrorKind.TRANSIENT, Reason.SANDBOX_UNREACHABLE),
    ],
)
async def test_a_refusal_is_sent_once_and_says_what_it_means(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: ErrorKind, reason: Reason
) -> None:
    async with answering(monkeypatch, status) as calls:
        with pytest.raises(OperationError) as failed:
            await sandboxes().update_network("iours", SandboxNetwork(deny=("10.0.0.0/8",)))
    assert (failed.value.kind, failed.value.reason) == (kind, reason)
    assert len(calls) == 1


async def test_a_sandbox_that_does_not_run_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(monkeypatch, 404):
        with pytest.raises(OperationError) as failed:
            await sandboxes().update_network("iours", SandboxNetwork())
    assert failed.value.kind is ErrorKind.NOT_FOUND or failed.value.status == 404


async def test_without_the_lead_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fence() -> None:
        raise NotLeadingError

    async with answering(monkeypatch, 204) as calls:
        with pytest.raises(NotLeadingError):
            await sandboxes(fence).update_network("iours", SandboxNetwork())
    assert not calls


SECRET = "s3cr3t-value"
NETWORK = SandboxNetwork(
    ("a.example",), ("0.0.0.0/0",), {"a.example": {"Authorization": SecretStr(f"Bearer {SECRET}")}}
)


async def test_headers_and_destinations_are_sent_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(monkeypatch, 204) as calls:
        await sandboxes().update_network("iours", NETWORK)
    ((_, sent),) = calls
    assert {name: rules for name, rules in sent.items() if rules} == {
        "allowOut": ["a.example"],
        "denyOut": ["0.0.0.0/0"],
        "rules": {"a.example": [{"transform": {"headers": {"Authorization": f"Bearer {SECRET}"}}}]},
    }


async def test_an_answer_that_quotes_a_header_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(monkeypatch, 400, f"invalid value: {SECRET}"):
        with pytest.raises(OperationError) as failed:
            await sandboxes().update_network("iours", NETWORK)
    assert failed.value.reason is Reason.SANDBOX_REQUEST_REJECTED
    assert SECRET not in str(failed.value)
