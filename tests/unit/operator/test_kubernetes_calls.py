"""What the API server's answers mean for a step."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from kubernetes.aio.client.exceptions import ApiException
from managed_session_api.conditions import Reason
from managed_session_operator.clients.kubernetes.calls import kubernetes_call
from managed_session_operator.domain.errors import (
    ConflictError,
    ErrorKind,
    NotLeadingError,
    OperationError,
    ResourceGoneError,
)


async def _failing(error: BaseException) -> None:
    async with kubernetes_call("status", timeout=10, fence=None):
        raise error


def _answer(status: int) -> ApiException:
    error = ApiException(status=status, reason="Because")
    error.body = '{"message": "workSecret: token-in-the-quoted-object"}'
    return error


async def test_a_missing_resource_differs_from_a_changed_one() -> None:
    with pytest.raises(ResourceGoneError):
        await _failing(_answer(404))
    with pytest.raises(ConflictError):
        await _failing(_answer(409))


@pytest.mark.parametrize(
    ("status", "kind", "outcome_known"),
    [
        (400, ErrorKind.USER_ACTION, True),
        (401, ErrorKind.TRANSIENT, True),
        (403, ErrorKind.USER_ACTION, True),
        (422, ErrorKind.USER_ACTION, True),
        (429, ErrorKind.TRANSIENT, True),
        (500, ErrorKind.TRANSIENT, False),
        (503, ErrorKind.TRANSIENT, False),
    ],
)
async def test_other_errors_say_who_has_to_act_and_never_quote_the_object(
    status: int, kind: ErrorKind, outcome_known: bool
) -> None:
    with pytest.raises(OperationError) as raised:
        await _failing(_answer(status))
    failure = raised.value
    assert (failure.kind, failure.outcome_known, failure.reason) == (
        kind,
        outcome_known,
        Reason.KUBERNETES_CALL_FAILED,
    )
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
async def test_a_missing_answer_has_an_unknown_outcome(error: Exception) -> None:
    with pytest.raises(OperationError) as raised:
        await _failing(error)
    assert (raised.value.kind, raised.value.outcome_known) == (ErrorKind.TRANSIENT, False)


async def test_a_call_ends_at_its_time_limit() -> None:
    with pytest.raises(OperationError, match="TimeoutError"):
        async with kubernetes_call("list", timeout=0.01, fence=None):
            await asyncio.Event().wait()


async def test_cancellation_is_not_an_error() -> None:
    with pytest.raises(asyncio.CancelledError):
        await _failing(asyncio.CancelledError())


async def test_only_a_leader_sends_anything() -> None:
    sent = False

    def fence() -> None:
        raise NotLeadingError

    with pytest.raises(NotLeadingError):
        async with kubernetes_call("status", timeout=10, fence=fence):
            sent = True
    assert not sent
