"""What each exception of the E2B SDK means for a step."""

from __future__ import annotations

import json

import e2b
import httpx
import pytest
from e2b.api import api_exception_from_code
from managed_session_api.conditions import Reason
from managed_session_operator.clients.sandboxes import translate
from managed_session_operator.failures import Failure, Kind
from pydantic import SecretStr

KEY = SecretStr("e2b_0123456789abcdef")


def _answered(status: int, operation: str = "create", message: str = "said so") -> Failure:
    """The failure that an API answer with this HTTP status means, by the SDK's own mapping."""
    return translate(operation, api_exception_from_code(status, message), KEY)


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, Kind.PERSON, Reason.SANDBOX_REQUEST_REJECTED),
        (401, Kind.PERSON, Reason.SANDBOX_CREDENTIAL_REJECTED),
        (403, Kind.PERSON, Reason.SANDBOX_CREDENTIAL_REJECTED),
        (404, Kind.PERSON, Reason.TEMPLATE_NOT_FOUND),
        (409, Kind.RETRY, Reason.SANDBOX_CREATE_FAILED),
        (422, Kind.RETRY, Reason.SANDBOX_CREATE_FAILED),
        (429, Kind.QUOTA, Reason.SANDBOX_QUOTA_EXCEEDED),
        (500, Kind.RETRY, Reason.SANDBOX_CREATE_FAILED),
        (503, Kind.RETRY, Reason.SANDBOX_CREATE_FAILED),
    ],
)
def test_a_refused_create_tells_who_has_to_act_and_that_nothing_was_made(
    status: int, kind: Kind, reason: Reason
) -> None:
    failure = _answered(status)
    assert (failure.kind, failure.reason) == (kind, reason)
    assert failure.definite
    assert "said so" in failure.message
    assert "create" in failure.message


@pytest.mark.parametrize("status", [502, 504])
def test_a_gateways_answer_leaves_open_what_became_of_the_create(status: int) -> None:
    failure = _answered(status)
    assert (failure.kind, failure.definite, failure.status) == (Kind.RETRY, False, status)


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadTimeout("slow"),
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError("cut"),
        TimeoutError(),
        KeyError("sandboxID"),
        json.JSONDecodeError("Expecting value", "<html>", 0),
        ValueError("599 is not a valid HTTPStatus"),
        ConnectionResetError(104, "reset"),
        e2b.TimeoutException("deadline"),
        e2b.SandboxException("no status"),
        Exception("Body of the request is None"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("operation", ["create", "connect", "pause", "get", "list", "worker start"])
def test_what_says_nothing_about_the_server_is_tried_again_and_leaves_open_what_it_did(
    operation: str, error: Exception
) -> None:
    failure = translate(operation, error, KEY)
    assert (failure.kind, failure.definite, failure.status) == (Kind.RETRY, False, None)
    assert failure.message


@pytest.mark.parametrize(
    "error", [e2b.SandboxNotFoundException("gone"), e2b.SandboxNotRunningException("gone")]
)
def test_a_sandbox_that_is_not_there_is_gone(error: Exception) -> None:
    failure = translate("connect", error, KEY)
    assert (failure.kind, failure.reason) == (Kind.GONE, Reason.SANDBOX_VANISHED)


def test_a_sandbox_that_does_not_answer_is_not_taken_for_gone() -> None:
    failure = translate("worker start", e2b.SandboxUnreachableException("port closed"), KEY)
    assert (failure.kind, failure.reason) == (Kind.RETRY, Reason.SANDBOX_UNREACHABLE)


def test_a_template_of_another_time_needs_a_person() -> None:
    failure = translate("create", e2b.TemplateException("update the template"), KEY)
    assert (failure.kind, failure.reason) == (Kind.PERSON, Reason.TEMPLATE_NOT_FOUND)


@pytest.mark.parametrize("before", [0, 100, 150, 175, 180, 190, 199, 300])
def test_the_key_never_reaches_the_text_not_even_in_part(before: int) -> None:
    error = e2b.SandboxException("x" * before + f" key {KEY.get_secret_value()} is not valid")
    text = str(translate("create", error, KEY))
    assert "e2b_0" not in text
    assert len(text) < 400


def test_only_the_first_line_of_a_long_answer_is_repeated() -> None:
    text = str(translate("create", e2b.SandboxException("first\n<html>second</html>"), KEY))
    assert "first" in text
    assert "second" not in text


def test_an_exception_without_a_text_is_named() -> None:
    assert "TimeoutError" in str(translate("pause", TimeoutError(), KEY))
