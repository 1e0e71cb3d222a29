"""Calls about our resources: when they are sent, and what the answers mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from kubernetes.aio.client import Configuration
from managed_session_api import names
from managed_session_runtime.kubernetes_client import TimeoutApiClient
from managed_session_runtime.kubernetes_errors import (
    ConflictError,
    KubernetesMisconfiguredError,
    KubernetesUnavailableError,
    ResourceGoneError,
)
from managed_session_runtime.managed_session_client import ManagedSessionClient

Call = Callable[[ManagedSessionClient], Any]

WRITES: dict[str, Call] = {
    "create": lambda sessions: sessions.create("a", {"sessionID": "sesn_1"}),
    "patch": lambda sessions: sessions.patch("a", "7", {"metadata": {"finalizers": []}}),
    "patch_status": lambda sessions: sessions.patch_status("a", "7", {"phase": "Idle"}),
    "delete": lambda sessions: sessions.delete("a", uid="u", resource_version="7"),
}
DONE = {"GET": 200, "POST": 201, "PATCH": 200, "DELETE": 200}


@dataclass
class Request:
    """A request to the API server."""

    method: str
    target: str
    body: Any


@dataclass
class ScriptedApiServer:
    """Answers each request with the next of `answers`: status and body, or None to close the connection."""

    answers: list[tuple[int, Any] | None] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    hangs: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head.decode(), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.split(" ", 2)
        headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        length = int(headers.get("content-length", 0))
        content = await reader.readexactly(length)
        self.requests.append(Request(method, target, json.loads(content) if content else None))
        if self.hangs:
            await reader.read()
        answer = self.answers.pop(0) if self.answers else (DONE[method], {"metadata": {"name": "a"}})
        if answer is None:
            raise ConnectionError
        status, body = answer
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        writer.write(f"HTTP/1.1 {status} So\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()


@dataclass
class Harness:
    """A client of the scripted API server. Tests can close its fence."""

    api_server: ScriptedApiServer
    sessions: ManagedSessionClient
    fenced: list[int]
    """Number of requests sent before, for each time that the fence was called."""
    closed: list[bool]


class NotAllowedError(Exception):
    """The fence is closed."""


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    api_server = ScriptedApiServer()
    server = await asyncio.start_server(api_server.serve, "127.0.0.1", 0)
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    fenced: list[int] = []
    closed: list[bool] = []

    def fence() -> None:
        fenced.append(len(api_server.requests))
        if closed:
            raise NotAllowedError

    async with TimeoutApiClient(configuration, timeout_seconds=5.0) as client:
        sessions = ManagedSessionClient(client, "ns", component="tester", timeout=3.0, fence=fence)
        yield Harness(api_server, sessions, fenced, closed)
    server.close()


def status_of(code: int, message: str = "", **details: str) -> tuple[int, Any]:
    return code, {"kind": "Status", "code": code, "message": message, "details": details}


@pytest.mark.parametrize("write", WRITES)
async def test_nothing_is_written_if_the_fence_is_closed(harness: Harness, write: str) -> None:
    harness.closed.append(True)
    with pytest.raises(NotAllowedError):
        await WRITES[write](harness.sessions)
    assert harness.api_server.requests == []


async def test_reading_needs_no_fence(harness: Harness) -> None:
    harness.closed.append(True)
    assert await harness.sessions.get("a") == {"metadata": {"name": "a"}}
    harness.api_server.answers.append((200, {"metadata": {}, "items": []}))
    assert [body async for body in harness.sessions.list_all()] == []
    assert harness.fenced == []


# aiohttp itself repeats a DELETE.
@pytest.mark.parametrize("write", sorted(WRITES.keys() - {"delete"}))
async def test_a_call_on_a_closed_connection_is_fenced_and_sent_once_more(
    harness: Harness, write: str
) -> None:
    harness.api_server.answers.append(None)
    await WRITES[write](harness.sessions)
    first, second = harness.api_server.requests
    assert first == second
    assert harness.fenced == [0, 1]


async def test_every_write_names_the_version_it_was_decided_on(harness: Harness) -> None:
    for write in WRITES.values():
        await write(harness.sessions)
    create, patch, status, delete = harness.api_server.requests
    path = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/ns/{names.PLURAL}"
    assert (create.method, create.target) == ("POST", f"{path}?fieldManager=tester")
    assert (patch.method, patch.target) == ("PATCH", f"{path}/a?fieldManager=tester")
    assert (status.method, status.target) == ("PATCH", f"{path}/a/status?fieldManager=tester")
    assert (delete.method, delete.target) == ("DELETE", f"{path}/a")
    assert patch.body["metadata"] == {"finalizers": [], "resourceVersion": "7"}
    assert status.body == {"metadata": {"resourceVersion": "7"}, "status": {"phase": "Idle"}}
    assert delete.body["preconditions"] == {"uid": "u", "resourceVersion": "7"}


async def test_a_list_is_read_page_by_page(harness: Harness) -> None:
    harness.api_server.answers += [
        (200, {"metadata": {"continue": "more"}, "items": [{"n": 1}, {"n": 2}]}),
        (200, {"metadata": {}, "items": [{"n": 3}]}),
    ]
    assert [body["n"] async for body in harness.sessions.list_all()] == [1, 2, 3]
    assert [request.target.partition("?")[2] for request in harness.api_server.requests] == [
        "limit=500",
        "limit=500&continue=more",
    ]


async def test_a_resource_is_gone_only_if_the_answer_names_it(harness: Harness) -> None:
    harness.api_server.answers.append(status_of(404, "not found", name="a"))
    assert await harness.sessions.get("a") is None
    harness.api_server.answers.append(status_of(404, "not found", name="a"))
    with pytest.raises(ResourceGoneError):
        await WRITES["patch_status"](harness.sessions)
    for answer in ((404, b"404 page not found"), status_of(404, name="ns", kind="namespaces")):
        harness.api_server.answers.append(answer)
        with pytest.raises(KubernetesMisconfiguredError, match="CustomResourceDefinition"):
            await harness.sessions.get("a")


async def test_a_deleted_resource_differs_from_one_that_waits_for_finalizers(
    harness: Harness,
) -> None:
    waiting = {"metadata": {"name": "a", "deletionTimestamp": "2026-03-18T14:05:22Z"}}
    harness.api_server.answers += [(200, waiting), status_of(200), status_of(404, name="a")]
    assert [await WRITES["delete"](harness.sessions) for _ in range(3)] == [waiting, None, None]


@pytest.mark.parametrize("write", WRITES)
async def test_a_changed_resource_is_a_conflict(harness: Harness, write: str) -> None:
    harness.api_server.answers.append(status_of(409))
    with pytest.raises(ConflictError):
        await WRITES[write](harness.sessions)


@pytest.mark.parametrize(
    ("answer", "error", "status"),
    [
        (status_of(401), KubernetesMisconfiguredError, 401),
        (status_of(403), KubernetesMisconfiguredError, 403),
        (status_of(422), KubernetesMisconfiguredError, 422),
        (status_of(429), KubernetesUnavailableError, 429),
        ((503, b"<html>"), KubernetesUnavailableError, 503),
        ((200, b"<html>a proxy's page"), KubernetesUnavailableError, 200),
    ],
)
async def test_other_errors_say_whether_waiting_helps(
    harness: Harness, answer: tuple[int, Any], error: type[Exception], status: int
) -> None:
    harness.api_server.answers.append(answer)
    with pytest.raises(error) as raised:
        await harness.sessions.get("a")
    assert getattr(raised.value, "status", None) == status


async def test_a_missing_answer_is_a_temporary_error(harness: Harness) -> None:
    harness.api_server.hangs = True
    with pytest.raises(KubernetesUnavailableError, match="TimeoutError") as raised:
        await harness.sessions.get("a")
    assert raised.value.status is None
