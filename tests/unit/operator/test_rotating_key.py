"""A key with several lines, some of which a cloud accepts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.clients import rotating_key
from managed_session_operator.clients.anthropic.work_queue import WorkQueue
from managed_session_operator.clients.anthropic.workspace_sessions import WorkspaceSessions
from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_operator.controller.work_poller import WorkPoller
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.offer import OfferInbox
from managed_session_operator.metrics import Metrics
from managed_session_operator.settings import OperatorSettings
from pydantic import SecretStr


class Cloud:
    """Answers 200 to keys that it accepts and 401 to others. Records the keys."""

    def __init__(self) -> None:
        self.accepts: set[str] = set()
        self.refusal = "401 Unauthorized"
        self.asked: list[tuple[str, int]] = []
        self.next = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await self._head(reader):
            headers = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:] if ": " in line)
            headers = {name.lower(): value for name, value in headers.items()}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            key = headers["authorization"].removeprefix("Bearer ")
            self.asked.append((key, len(body)))
            self.next.set()
            status = "200 OK" if key in self.accepts else self.refusal
            answer = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
            writer.write(answer.encode())

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError):
            return await reader.readuntil(b"\r\n\r\n")
        return b""

    async def reached(self, key: str) -> None:
        """Wait for a request with this key."""
        while key not in [each for each, _ in self.asked]:
            self.next.clear()
            await self.next.wait()

    def asked_with(self) -> list[str]:
        """The keys of all requests since the last call."""
        keys = [key for key, _ in self.asked]
        self.asked.clear()
        return keys


class Rotation:
    """The lines of a key, and the line reported as in use."""

    def __init__(self) -> None:
        self.lines = ["new", "old"]
        self.reported: list[int] = []
        self.key = RotatingKey(
            "a-key", lambda: [SecretStr(line) for line in self.lines], self.reported.append
        )


@pytest.fixture
async def cloud(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    cloud = Cloud()
    server = await asyncio.start_server(cloud.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://{host}:{port}")
    yield cloud
    server.close()


@pytest.fixture
def rotation() -> Rotation:
    return Rotation()


@pytest.fixture
def queue(rotation: Rotation) -> WorkQueue:
    return WorkQueue(lambda: "env_1", rotation.key, worker_id="test", fence=lambda: None, timeout=5)


async def test_only_the_first_line_is_used_while_it_is_accepted(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    cloud.accepts = {"new", "old"}
    await queue.stop("sesn_01")
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["new", "new"]
    assert rotation.reported == [1]


async def test_a_line_that_is_not_valid_yet_is_refused_once_and_the_next_one_is_used(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    cloud.accepts = {"old"}
    await queue.stop("sesn_01")
    assert [size for _, size in cloud.asked] == [cloud.asked[0][1]] * 2
    assert cloud.asked[0][1] > 0
    assert cloud.asked_with() == ["new", "old"]
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["old"]
    assert rotation.reported == [2]


async def test_the_key_of_another_environment_is_refused_as_well(cloud: Cloud, queue: WorkQueue) -> None:
    cloud.accepts, cloud.refusal = {"old"}, "403 Forbidden"
    await queue.stop("sesn_01")
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["new", "old", "old"]


async def test_a_forbidden_session_says_nothing_about_the_key(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    cloud.refusal = "403 Forbidden"
    with pytest.raises(OperationError):
        await queue.session("sesn_01")
    assert cloud.asked_with() == ["new"]
    assert rotation.reported == [1]


async def test_the_line_in_use_may_be_revoked_at_any_moment(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    cloud.accepts = {"old"}
    await queue.stop("sesn_01")
    cloud.accepts = {"new"}
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["new", "old", "old", "new"]
    assert rotation.reported == [2, 1]
    rotation.lines = ["new"]
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["new"]


async def test_a_refused_first_line_is_tried_again_later(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.accepts = {"old"}
    await queue.stop("sesn_01")
    cloud.accepts = {"new", "old"}
    await queue.stop("sesn_01")
    monkeypatch.setattr(rotating_key, "AGAIN_SECONDS", 0.0)
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["new", "old", "old", "new"]
    assert rotation.reported == [2, 1]


async def test_refusal_of_all_lines_needs_a_person_until_one_is_accepted(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    with pytest.raises(OperationError) as raised:
        await queue.stop("sesn_01")
    assert raised.value.kind is ErrorKind.USER_ACTION
    assert rotation.reported == [0]
    cloud.accepts = {"new"}
    await queue.stop("sesn_01")
    assert rotation.reported == [0, 1]
    assert cloud.asked_with() == ["new", "old", "new"]


async def test_the_api_key_is_rotated_in_the_same_way(cloud: Cloud, rotation: Rotation) -> None:
    cloud.accepts = {"old"}
    sessions = WorkspaceSessions(rotation.key, fence=lambda: None, timeout=5)
    await sessions.interrupt("sesn_01")
    await sessions.interrupt("sesn_01")
    assert cloud.asked_with() == ["new", "old", "old"]


async def test_a_queue_with_a_refused_key_is_polled_as_soon_as_the_key_changes(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    failed = asyncio.Event()

    def turned(sleeps: float) -> None:
        if sleeps:
            failed.set()

    claims = WorkPoller(
        queue,
        OfferInbox(),
        Capacity(5, 80, wake=lambda _: None),
        on_offer=lambda _: None,
        on_queue_error=lambda _: None,
        on_turn=turned,
        # Otherwise it would not be polled for 100 s.
        settings=OperatorSettings.model_validate({"retry_scale": 10}),
        metrics=Metrics(),
    )
    running = asyncio.create_task(claims.run())
    await failed.wait()
    assert cloud.asked_with() == ["new", "old"]
    cloud.accepts, rotation.lines = {"newest"}, ["newest"]
    async with asyncio.timeout(60):
        await cloud.reached("newest")
    running.cancel()
