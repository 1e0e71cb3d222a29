"""Behaviour of both SDKs that the operator depends on, so that a new pin shows what has changed.

Anthropic: an environment key is sent as a bearer token; `max_retries=0` sends once; an empty poll is None or
""; open unions keep unknown types and values. E2B: `retries=0` sends once; the exceptions of `translate`; a
pause that is answered 409 is False; the key of a repeated create; pages by `x-next-token`; and, for lists
that the SDK can't read, some names of its generated client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import e2b
import pytest
from e2b.api.client.api.sandboxes import get_v2_sandboxes
from managed_session_operator.clients.e2b.open_listing import next_page

from .open_answers import Answering
from .test_unknown_answers import SANDBOX, WORK

KEY = "e2b_" + "0" * 40
ONCE: Any = {"retries": 0, "request_timeout": 10}


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Answering]:
    async with Answering().serving() as server:
        monkeypatch.setenv("E2B_API_URL", server.url)
        monkeypatch.setenv("E2B_HTTP_VERSION", "1.1")
        yield server


@pytest.fixture
def sandbox(server: Answering) -> Any:  # noqa: ARG001 - its address is in the environment
    return e2b.E2B(api_key=KEY).AsyncSandbox


@pytest.fixture
async def client(server: Answering) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=server.url, auth_token="key-of-env", max_retries=0
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, e2b.AuthenticationException),
        (404, e2b.SandboxNotFoundException),
        (429, e2b.RateLimitException),
        (500, e2b.SandboxException),
    ],
)
async def test_e2b_raises_by_status_and_sends_once_without_retries(
    server: Answering, sandbox: Any, status: int, error: type[Exception]
) -> None:
    server.status, server.body = status, {"code": status, "message": "no"}
    with pytest.raises(error) as raised:
        await sandbox.connect("i1", timeout=60, **ONCE)
    assert getattr(raised.value, "status_code", None) in (status, None)
    assert len(server.heads) == 1


@pytest.mark.parametrize("message", ["Rate limit exceeded", "the maximum number - of sandboxes (20)"])
async def test_e2b_appends_the_servers_message_about_a_limit(
    server: Answering, sandbox: Any, message: str
) -> None:
    server.status, server.body = 429, {"code": 429, "message": message}
    with pytest.raises(e2b.RateLimitException) as raised:
        await sandbox.create(template="t", **ONCE)
    assert str(raised.value).partition(" - ")[2] == message


async def test_e2b_distinguishes_a_silent_guest_from_other_conflicts(server: Answering, sandbox: Any) -> None:
    server.status = 409
    server.body = {
        "code": 409,
        "message": "no",
        "errorCode": "sandbox_snapshot_guest_agent_unresponsive",
        "error_code": "sandbox_snapshot_guest_agent_unresponsive",
    }
    with pytest.raises(e2b.GuestUnresponsiveException):
        await sandbox.connect("i1", timeout=60, **ONCE)


async def test_e2b_treats_a_conflict_at_a_pause_as_already_paused(server: Answering, sandbox: Any) -> None:
    server.status, server.body = 409, {"code": 409, "message": "paused already"}
    assert await sandbox.pause("i1", **ONCE) is False
    assert len(server.heads) == 1


async def test_e2b_identifies_a_repeated_create_by_a_header(server: Answering, sandbox: Any) -> None:
    server.status, server.body = 500, {"code": 500, "message": "no"}
    with pytest.raises(e2b.SandboxException):
        await sandbox.create(template="t", timeout=60, idempotency_key="key-of-create", **ONCE)
    assert ["key-of-create" in head for head in server.heads] == [True]


async def test_e2b_pages_use_a_header_even_when_read_entry_by_entry(server: Answering, sandbox: Any) -> None:
    server.headers, server.body = {"x-next-token": "more"}, [SANDBOX | {"state": "hibernating"}]
    pages = sandbox.list(query=e2b.SandboxQuery(metadata={"a b": "c&d"}), limit=7)
    with pytest.raises(ValueError, match="hibernating"):
        await pages.next_items()
    assert [info.sandbox_id for info in await next_page(pages)] == ["iodd"]
    asked = {head.split("\r\n")[0] for head in server.heads}
    assert (len(server.heads), len(asked)) == (3, 1), "the same question"
    server.headers, server.body = {}, [SANDBOX | {"state": "hibernating"}]
    await next_page(pages)
    assert "nexttoken=more" in server.heads[-1].split("\r\n")[0]
    assert not pages.has_next


def test_e2bs_generated_client_has_the_names_that_we_use() -> None:
    request = get_v2_sandboxes._get_kwargs(metadata="a=b", limit=7, next_token="t")
    assert request == {
        "method": "get",
        "url": "/v2/sandboxes",
        "params": {"metadata": "a=b", "limit": 7, "nextToken": "t"},
    }
    assert {state.value for state in e2b.SandboxState} == {"running", "paused"}


async def test_anthropics_client_sends_the_environment_key_as_bearer_and_once(
    server: Answering, client: anthropic.AsyncAnthropic
) -> None:
    server.status, server.body = 500, {"type": "error", "error": {"type": "api_error", "message": "no"}}
    with pytest.raises(anthropic.InternalServerError):
        await client.beta.environments.work.poll("env_1", block_ms=1)
    [head] = server.heads
    assert "authorization: bearer key-of-env" in head
    assert "/v1/environments/env_1/work/poll" in head


@pytest.mark.parametrize("body", [None])
async def test_an_empty_poll_returns_nothing(
    server: Answering, client: anthropic.AsyncAnthropic, body: object
) -> None:
    server.body = body
    assert not await client.beta.environments.work.poll("env_1", block_ms=1)


async def test_anthropics_unions_are_open(server: Answering, client: anthropic.AsyncAnthropic) -> None:
    item = WORK | {"state": "dreaming", "data": {"type": "dream", "id": "d1"}, "more": {"x": 1}}
    server.body = {"data": [item], "next_page": None}
    [work] = [each async for each in client.beta.environments.work.list("env_1")]
    assert (work.state, work.data.type, work.data.id) == ("dreaming", "dream", "d1")
    event = {"type": "agent.dreams", "id": "sevt_1", "of": "sheep"}
    server.body = {"data": [event], "next_page": None}
    [read] = [each async for each in client.beta.sessions.events.list("sesn_1", order="desc")]
    assert (read.type, read.id) == ("agent.dreams", "sevt_1")
    assert "order=desc" in server.heads[-1]


@pytest.mark.parametrize("status", [401, 404, 409, 429])
async def test_anthropics_errors_carry_their_status(
    server: Answering, client: anthropic.AsyncAnthropic, status: int
) -> None:
    server.status, server.body = status, {"type": "error", "error": {"type": "x", "message": "no"}}
    with pytest.raises(anthropic.APIStatusError) as raised:
        await client.beta.environments.work.ack("sesn_1", environment_id="env_1")
    assert raised.value.status_code == status
    assert len(server.heads) == 1
