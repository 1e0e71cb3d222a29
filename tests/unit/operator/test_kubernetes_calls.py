"""What the API server's answers mean for a step."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from kubernetes.aio.client.exceptions import ApiException
from managed_session_api.conditions import Reason
from managed_session_operator.clients.kubernetes_calls import kubernetes_call
from managed_session_operator.failures import (
    ConflictError,
    Failure,
    Kind,
    NotLeadingError,
    ResourceGoneError,
)


async def _failing(error: BaseException) -> None:
    async with kubernetes_call("status", timeout=10, fence=None):
        raise error


def _answer(status: int) -> ApiException:
    error = ApiException(status=status, reason="Because")
    error.body = '{"message": "workSecret: token-in-the-quoted-object"}'
    return error


async def test_an_absent_resource_and_a_changed_one_are_told_apart() -> None:
    with pytest.raises(ResourceGoneError):
        await _failing(_answer(404))
    with pytest.raises(ConflictError):
        await _failing(_answer(409))


@pytest.mark.parametrize(
    ("status", "kind", "definite"),
    [
        (400, Kind.PERSON, True),
        (401, Kind.RETRY, True),
        (403, Kind.PERSON, True),
        (422, Kind.PERSON, True),
        (429, Kind.RETRY, True),
        (500, Kind.RETRY, False),
        (503, Kind.RETRY, False),
    ],
)
async def test_other_answers_say_who_has_to_act_and_never_quote_the_object(
    status: int, kind: Kind, definite: bool
) -> None:
    with pytest.raises(Failure) as raised:
        await _failing(_answer(status))
    failure = raised.value
    assert (failure.kind, failure.definite, failure.reason) == (kind, definite, Reason.KUBERNETES_REFUSED)
    assert str(status) in failure.message
    assert "token-in-the-quoted-object" not in str(failure)
    assert failure.__suppress_context__


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        aiohttp.ClientPayloadError("cut"),
        aiohttp.ServerDisconnectedError(),
        ConnectionRefusedError(111, "refused"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_no_answer_leaves_open_what_the_server_did(error: Exception) -> None:
    with pytest.raises(Failure) as raised:
        await _failing(error)
    assert (raised.value.kind, raised.value.definite) == (Kind.RETRY, False)


async def test_a_call_ends_at_its_time_limit() -> None:
    with pytest.raises(Failure, match="TimeoutError"):
        async with kubernetes_call("list", timeout=0.01, fence=None):
            await asyncio.Event().wait()


async def test_cancellation_is_not_taken_for_a_failure() -> None:
    with pytest.raises(asyncio.CancelledError):
        await _failing(asyncio.CancelledError())


async def test_nothing_is_sent_by_who_does_not_lead() -> None:
    sent = False

    def fence() -> None:
        raise NotLeadingError

    with pytest.raises(NotLeadingError):
        async with kubernetes_call("status", timeout=10, fence=fence):
            sent = True
    assert not sent
