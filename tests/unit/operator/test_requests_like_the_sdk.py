"""What the operator sends to Anthropic without the SDK is what the SDK would send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anthropic
import pytest
from managed_session_operator.clients.anthropic.work_queue import WorkQueue

from .examples import key
from .open_answers import Answering

SDK = anthropic.AsyncAnthropic
CALLS: dict[str, tuple[Callable[[WorkQueue], Awaitable[Any]], Callable[[SDK], Any]]] = {
    "poll": (
        lambda queue: queue.poll(block_ms=5, reclaim_ms=7000),
        lambda sdk: sdk.beta.environments.work.poll(
            "env_1", block_ms=5, reclaim_older_than_ms=7000, anthropic_worker_id="test"
        ),
    ),
    "acknowledge": (
        lambda queue: queue.acknowledge("work/1 x"),
        lambda sdk: sdk.beta.environments.work.ack("work/1 x", environment_id="env_1"),
    ),
    "stop": (
        lambda queue: queue.stop("work_1"),
        lambda sdk: sdk.beta.environments.work.stop("work_1", environment_id="env_1", force=True),
    ),
    "statistics": (
        lambda queue: queue.workers_polling(),
        lambda sdk: sdk.beta.environments.work.stats("env_1"),
    ),
    "work list": (
        lambda queue: queue.items(),
        lambda sdk: sdk.beta.environments.work.list("env_1", limit=100),
    ),
    "events": (
        lambda queue: queue.turn("sesn_1"),
        lambda sdk: sdk.beta.sessions.events.list("sesn_1", order="desc", limit=20),
    ),
    "messages": (
        lambda queue: queue.has_message("sesn_1"),
        lambda sdk: sdk.beta.sessions.events.list(
            "sesn_1",
            limit=100,
            types=[
                "user.message",
                "user.interrupt",
                "user.tool_confirmation",
                "user.tool_result",
                "user.custom_tool_result",
                "user.define_outcome",
            ],
        ),
    ),
}
OF_THE_LIBRARY = {
    "host",
    "connection",
    "accept-encoding",
    "content-length",
    "x-stainless-timeout",
    "x-stainless-read-timeout",
    "x-stainless-retry-count",
}
"""Headers in which HTTP libraries, or the SDK's own retries and timeouts, may differ."""


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Answering]:
    async with Answering().serving() as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Ours: yes")
        server.body = {"data": [], "next_page": None}
        yield server


def sent(head: str) -> tuple[str, str, list[tuple[str, str]], dict[str, str]]:
    """Return method, path, query and headers of a request."""
    line, *lines = head.strip().split("\r\n")
    method, target, _ = line.split(" ")
    url = urlsplit(target)
    headers = dict(each.split(": ", 1) for each in lines if ": " in each)
    own = {name: value for name, value in headers.items() if name not in OF_THE_LIBRARY}
    return method, url.path, sorted(parse_qsl(url.query)), own


@pytest.mark.parametrize("name", CALLS)
async def test_a_request_is_what_the_sdk_sends(server: Answering, name: str) -> None:
    ours, theirs = CALLS[name]
    queue = WorkQueue(lambda: "env_1", key(), worker_id="test", fence=lambda: None, timeout=30)
    await ours(queue)
    async with SDK(auth_token="sk-key", max_retries=0) as sdk:
        await theirs(sdk)
    first, second = (sent(head) for head in server.heads)
    assert first == second


async def test_a_list_is_read_to_its_last_page(server: Answering) -> None:
    server.bodies = [
        {"data": [{"id": "work_1", "state": "queued"}], "next_page": "a b"},
        {"data": [{"id": "work_2", "state": "queued"}], "next_page": None},
    ]
    queue = WorkQueue(lambda: "env_1", key(), worker_id="test", fence=lambda: None, timeout=30)
    assert [item.work_id for item in (await queue.items()).items] == ["work_1", "work_2"]
    assert "page=a%20b" in server.heads[1].split("\r\n")[0]
