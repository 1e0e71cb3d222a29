"""A key with several lines, as a cloud sees it that accepts some of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from managed_session_operator.capacity import Capacity
from managed_session_operator.claim_loop import ClaimLoop
from managed_session_operator.clients import rotating_key
from managed_session_operator.clients.api_key_sessions import ApiKeySessions
from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_operator.clients.work_queue import WorkQueue
from managed_session_operator.failures import Failure, Kind
from managed_session_operator.metrics import Metrics
from managed_session_operator.offers import OfferInbox
from managed_session_operator.settings import OperatorSettings
from pydantic import SecretStr


class Cloud:
    """Answers 200 to the keys that it accepts and 401 to others, and keeps what it was asked with."""

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
    """The lines of a key, and which of them is said to be in use."""

    def __init__(self) -> None:
        self.lines = ["new", "old"]
        self.said: list[int] = []
        self.key = RotatingKey("a-key", lambda: [SecretStr(line) for line in self.lines], self.said.append)


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


async def test_the_first_line_is_used_alone_while_it_is_accepted(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    cloud.accepts = {"new", "old"}
    await queue.stop("sesn_01")
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["new", "new"]
    assert rotation.said == [1]


async def test_a_line_that_is_not_valid_yet_costs_one_refusal_and_the_same_request_goes_on_with_the_next(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    cloud.accepts = {"old"}
    await queue.stop("sesn_01")
    assert [size for _, size in cloud.asked] == [cloud.asked[0][1]] * 2
    assert cloud.asked[0][1] > 0
    assert cloud.asked_with() == ["new", "old"]
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["old"]
    assert rotation.said == [2]


async def test_the_key_of_another_environment_is_refused_as_well(cloud: Cloud, queue: WorkQueue) -> None:
    cloud.accepts, cloud.refusal = {"old"}, "403 Forbidden"
    await queue.stop("sesn_01")
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["new", "old", "old"]


async def test_a_session_that_is_forbidden_says_nothing_of_the_key(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    cloud.refusal = "403 Forbidden"
    with pytest.raises(Failure):
        await queue.session("sesn_01")
    assert cloud.asked_with() == ["new"]
    assert rotation.said == [1]


async def test_the_line_in_use_may_be_revoked_at_any_moment(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    cloud.accepts = {"old"}
    await queue.stop("sesn_01")
    cloud.accepts = {"new"}
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["new", "old", "old", "new"]
    assert rotation.said == [2, 1]
    rotation.lines = ["new"]
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["new"]


async def test_a_refused_first_line_is_tried_again_after_a_while(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.accepts = {"old"}
    await queue.stop("sesn_01")
    cloud.accepts = {"new", "old"}
    await queue.stop("sesn_01")
    monkeypatch.setattr(rotating_key, "AGAIN_SECONDS", 0.0)
    await queue.stop("sesn_01")
    assert cloud.asked_with() == ["new", "old", "old", "new"]
    assert rotation.said == [2, 1]


async def test_all_lines_refused_is_for_a_person_until_one_is_accepted(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    with pytest.raises(Failure) as raised:
        await queue.stop("sesn_01")
    assert raised.value.kind is Kind.PERSON
    assert rotation.said == [0]
    cloud.accepts = {"new"}
    await queue.stop("sesn_01")
    assert rotation.said == [0, 1]
    assert cloud.asked_with() == ["new", "old", "new"]


async def test_the_api_key_is_rotated_in_the_same_way(cloud: Cloud, rotation: Rotation) -> None:
    cloud.accepts = {"old"}
    sessions = ApiKeySessions(rotation.key, fence=lambda: None, timeout=5)
    await sessions.interrupt("sesn_01")
    await sessions.interrupt("sesn_01")
    assert cloud.asked_with() == ["new", "old", "old"]


async def test_a_queue_that_is_left_alone_for_a_refused_key_is_polled_as_soon_as_the_key_changes(
    cloud: Cloud, rotation: Rotation, queue: WorkQueue
) -> None:
    failed = asyncio.Event()

    def turned(sleeps: float) -> None:
        if sleeps:
            failed.set()

    claims = ClaimLoop(
        queue,
        OfferInbox(),
        Capacity(5, 80, wake=lambda _: None),
        on_offer=lambda _: None,
        on_trouble=lambda _: None,
        on_turn=turned,
        # It would be left alone for 100 s.
        settings=OperatorSettings.model_validate({"retry_scale": 10}),
        metrics=Metrics(),
    )
    running = asyncio.create_task(claims.run())
    await failed.wait()
    assert cloud.asked_with() == ["new", "old"]
    cloud.accepts, rotation.lines = {"newest"}, ["newest"]
    async with asyncio.timeout(20):
        await cloud.reached("newest")
    running.cancel()
