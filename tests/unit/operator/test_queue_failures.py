"""What each exception of the Anthropic SDK means for a step."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types.beta.environments import BetaSelfHostedWork
from managed_session_api.conditions import Reason
from managed_session_operator.clients.work_queue import SessionView, WorkQueue, _work_item
from managed_session_operator.failures import Failure, Kind, NotLeadingError

from .examples import key


def _queue(fence: Any = lambda: None) -> WorkQueue:
    return WorkQueue(lambda: "env_1", key(), worker_id="test", fence=fence, timeout=1)


async def _translated(error: Exception, operation: str = "session") -> Failure:
    with pytest.raises(Failure) as raised:
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
        (401, Kind.PERSON, Reason.ENVIRONMENT_CREDENTIAL_REJECTED),
        (403, Kind.PERSON, Reason.ENVIRONMENT_CREDENTIAL_REJECTED),
        (404, Kind.GONE, Reason.SESSION_ENDED),
        (429, Kind.QUOTA, Reason.ENVIRONMENT_UNREACHABLE),
        (500, Kind.RETRY, Reason.ENVIRONMENT_UNREACHABLE),
        (529, Kind.RETRY, Reason.ENVIRONMENT_UNREACHABLE),
    ],
)
async def test_an_answer_tells_who_has_to_act(status: int, kind: Kind, reason: Reason) -> None:
    failure = await _translated(_answer(status, _said("some_error", "because")))
    assert (failure.kind, failure.reason, failure.status) == (kind, reason, status)
    assert "because" in failure.message
    assert failure.definite == (status < 500)


@pytest.mark.parametrize("body", ["<html>not here</html>", None, {}, {"detail": "Not Found"}, []])
async def test_what_a_proxy_answers_is_not_taken_for_the_end_of_a_session(body: object) -> None:
    failure = await _translated(_answer(404, body))
    assert failure.kind is Kind.RETRY


@pytest.mark.parametrize("body", [None, {"message": "EnvironmentInstance not found"}])
async def test_a_poll_goes_on_after_a_404_of_any_form_but_a_page(body: object) -> None:
    assert (await _translated(_answer(404, body), "poll")).kind is Kind.GONE
    assert (await _translated(_answer(404, "<html>not here</html>"), "poll")).kind is Kind.RETRY


@pytest.mark.parametrize(
    ("item", "state"),
    [
        ({"id": "work_1", "created_at": "2026-11-23t17:00:00.123456789z", "state": "queued"}, "queued"),
        ({"id": "work_1", "created_at": "yesterday", "state": "queued"}, "queued"),
        ({"id": "work_1", "created_at": None, "data": None, "state": "stopped"}, "stopped"),
        ({"id": "work_1", "data": {"type": "surprise"}}, "None"),
    ],
    ids=["other form of a time", "no time", "nulls", "nearly nothing"],
)
def test_an_odd_item_of_the_work_list_hides_no_other(item: dict[str, Any], state: str) -> None:
    read = _work_item(BetaSelfHostedWork.construct(**item))
    assert (read.work_id, read.state, read.unstarted) == ("work_1", state, False)


async def test_the_time_that_the_server_asks_for_is_kept() -> None:
    assert (await _translated(_answer(429, None, **{"retry-after": "7"}))).retry_after == 7.0
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    assert (await _translated(_answer(429, None, **{"retry-after": date}))).retry_after is None
    assert (await _translated(_answer(429, None))).retry_after is None


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
async def test_whatever_else_goes_wrong_is_tried_again_and_its_text_is_not_repeated(error: Exception) -> None:
    failure = await _translated(error)
    assert (failure.kind, failure.definite) == (Kind.RETRY, False)
    assert type(error).__name__ in failure.message
    assert "odd" not in failure.message


async def test_nothing_is_sent_by_who_does_not_lead() -> None:
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
    assert SessionView("s", "e", None, status, archived, has_skills=False).ended is ended
