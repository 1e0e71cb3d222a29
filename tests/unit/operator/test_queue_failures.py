"""What each exception of Anthropic's SDK means for a step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anthropic
import httpx2
import pytest
from managed_session_api.conditions import Reason
from managed_session_operator.clients.anthropic.answers import work_item
from managed_session_operator.clients.anthropic.work_queue import WorkQueue
from managed_session_operator.domain.errors import ErrorKind, NotLeadingError, OperationError
from managed_session_operator.domain.session import SessionView

from .examples import key
from .open_answers import Answering


def _queue(fence: Any = lambda: None) -> WorkQueue:
    return WorkQueue(lambda: "env_1", key(), worker_id="test", fence=fence, timeout=30)


async def _translated(error: Exception, operation: str = "session") -> OperationError:
    with pytest.raises(OperationError) as raised:
        async with _queue()._call(operation):
            raise error
    return raised.value


def _answer(status: int, body: object | None, **headers: str) -> anthropic.APIStatusError:
    request = httpx2.Request("GET", "https://api.example/v1/environments/env_1/work/poll")
    response = httpx2.Response(status, headers=headers, request=request)
    return anthropic.APIStatusError(f"Error code: {status}", response=response, body=body)


def _said(type_: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": type_, "message": message}}


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (401, ErrorKind.USER_ACTION, Reason.ENVIRONMENT_CREDENTIAL_REJECTED),
        (403, ErrorKind.USER_ACTION, Reason.ENVIRONMENT_CREDENTIAL_REJECTED),
        (404, ErrorKind.NOT_FOUND, Reason.SESSION_ENDED),
        (400, ErrorKind.USER_ACTION, Reason.ENVIRONMENT_REQUEST_REJECTED),
        (402, ErrorKind.USER_ACTION, Reason.ENVIRONMENT_REQUEST_REJECTED),
        (409, ErrorKind.TRANSIENT, Reason.ENVIRONMENT_REQUEST_REJECTED),
        (413, ErrorKind.USER_ACTION, Reason.ENVIRONMENT_REQUEST_REJECTED),
        (422, ErrorKind.USER_ACTION, Reason.ENVIRONMENT_REQUEST_REJECTED),
        (429, ErrorKind.RATE_LIMITED, Reason.ENVIRONMENT_RATE_LIMITED),
        (500, ErrorKind.TRANSIENT, Reason.ENVIRONMENT_UNREACHABLE),
        (529, ErrorKind.TRANSIENT, Reason.ENVIRONMENT_UNREACHABLE),
    ],
)
async def test_an_answer_says_who_has_to_act(status: int, kind: ErrorKind, reason: Reason) -> None:
    failure = await _translated(_answer(status, _said("some_error", "because")))
    assert (failure.kind, failure.reason, failure.status) == (kind, reason, status)
    assert "because" in failure.message
    assert failure.outcome_known == (status < 500)


@pytest.mark.parametrize("status", [408, 425])
async def test_an_answer_that_asks_for_a_retry_is_not_a_refusal(status: int) -> None:
    failure = await _translated(_answer(status, None))
    assert (failure.kind, failure.reason) == (ErrorKind.TRANSIENT, Reason.ENVIRONMENT_UNREACHABLE)
    assert not failure.outcome_known


async def test_a_refused_call_says_which_one_and_why() -> None:
    failure = await _translated(_answer(400, _said("invalid_request_error", "block_ms: too long")), "poll")
    assert "poll" in failure.message
    assert "block_ms: too long" in failure.message


async def test_an_unreadable_session_counts_as_having_a_message_but_a_rate_limit_is_waited_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Answering().serving() as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        server.status, server.body = 500, _said("some_error", "because")
        assert await _queue().has_message("sesn_1") is True
        server.status = 429
        with pytest.raises(OperationError) as raised:
            await _queue().has_message("sesn_1")
        assert raised.value.reason is Reason.ENVIRONMENT_RATE_LIMITED


@pytest.mark.parametrize("body", ["<html>not here</html>", None, {}, {"detail": "Not Found"}, []])
async def test_a_proxys_answer_is_not_the_end_of_a_session(body: object) -> None:
    failure = await _translated(_answer(404, body))
    assert failure.kind is ErrorKind.TRANSIENT


@pytest.mark.parametrize("body", [None, {"message": "EnvironmentInstance not found"}])
async def test_a_poll_continues_after_any_404_except_a_page(body: object) -> None:
    assert (await _translated(_answer(404, body), "poll")).kind is ErrorKind.NOT_FOUND
    assert (await _translated(_answer(404, "<html>not here</html>"), "poll")).kind is ErrorKind.TRANSIENT


@pytest.mark.parametrize(
    ("item", "state"),
    [
        ({"id": "work_1", "created_at": "2026-11-23t17:00:00.123456789z", "state": "queued"}, "queued"),
        ({"id": "work_1", "created_at": "yesterday", "state": "queued"}, "queued"),
        ({"id": "work_1", "created_at": None, "data": None, "state": "stopped"}, "stopped"),
        ({"id": "work_1", "data": {"type": "surprise"}}, ""),
    ],
    ids=["other form of a time", "no time", "nulls", "nearly nothing"],
)
def test_an_odd_item_of_the_work_list_hides_no_other(item: dict[str, Any], state: str) -> None:
    read = work_item(item)
    assert (read.work_id, read.state, read.unstarted) == ("work_1", state, False)


async def test_the_servers_retry_delay_is_kept() -> None:
    assert (await _translated(_answer(429, None, **{"retry-after": "7"}))).retry_after == 7.0
    assert (await _translated(_answer(429, None))).retry_after is None


async def test_the_server_may_give_a_time_instead_of_a_delay() -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    seconds = (await _translated(_answer(429, None, **{"retry-after": until}))).retry_after
    assert seconds is not None
    assert 30 < seconds <= 40


@pytest.mark.parametrize("odd", ["soon", "nan", "-5", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2026"])
async def test_an_invalid_time_is_ignored(odd: str) -> None:
    assert (await _translated(_answer(429, None, **{"retry-after": odd}))).retry_after is None


@pytest.mark.parametrize("odd", ["inf", "1e12"])
async def test_no_answer_makes_the_operator_wait_forever(odd: str) -> None:
    seconds = (await _translated(_answer(429, None, **{"retry-after": odd}))).retry_after
    assert seconds is not None
    assert seconds <= 3600


@pytest.mark.parametrize(
    "error",
    [
        anthropic.APIConnectionError(request=httpx2.Request("GET", "https://api.example")),
        anthropic.APITimeoutError(request=httpx2.Request("GET", "https://api.example")),
        anthropic.AnthropicError("odd"),
        httpx2.ReadError("cut"),
        ValueError("not JSON"),
        AttributeError("no data"),
        RuntimeError("odd"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_any_other_error_is_retried_and_its_text_is_not_repeated(error: Exception) -> None:
    failure = await _translated(error)
    assert (failure.kind, failure.outcome_known) == (ErrorKind.TRANSIENT, False)
    assert type(error).__name__ in failure.message
    assert "odd" not in failure.message


async def test_only_a_leader_sends_anything() -> None:
    def fence() -> None:
        raise NotLeadingError

    with pytest.raises(NotLeadingError):
        await _queue(fence).poll(block_ms=1, reclaim_ms=1)


@pytest.mark.parametrize(
    ("status", "archived", "ended"),
    [
        ("idle", False, False),
        ("running", False, False),
        ("rescheduling", False, False),
        ("terminated", False, True),
        ("idle", True, True),
    ],
)
def test_terminated_and_archived_sessions_have_ended(status: str, archived: bool, ended: bool) -> None:
    assert SessionView("s", "e", None, status, archived).ended is ended
