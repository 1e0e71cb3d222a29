"""What each exception of E2B's SDK means for a step."""

from __future__ import annotations

import json

import e2b
import httpx
import pytest
from e2b.api import api_exception_from_code
from managed_session_api.conditions import Reason
from managed_session_operator.clients.e2b.failures import translate
from managed_session_operator.domain.errors import ErrorKind, OperationError
from pydantic import SecretStr

KEY = SecretStr("e2b_0123456789abcdef")


def _answered(status: int, operation: str = "create", message: str = "the message") -> OperationError:
    """Return the error for an API answer with this HTTP status, through the SDK's own mapping."""
    return translate(operation, api_exception_from_code(status, message), KEY)


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, ErrorKind.USER_ACTION, Reason.SANDBOX_REQUEST_REJECTED),
        (401, ErrorKind.USER_ACTION, Reason.SANDBOX_CREDENTIAL_REJECTED),
        (403, ErrorKind.USER_ACTION, Reason.SANDBOX_CREDENTIAL_REJECTED),
        (404, ErrorKind.USER_ACTION, Reason.TEMPLATE_NOT_FOUND),
        (409, ErrorKind.TRANSIENT, Reason.SANDBOX_CREATE_FAILED),
        (422, ErrorKind.TRANSIENT, Reason.SANDBOX_CREATE_FAILED),
        (429, ErrorKind.RATE_LIMITED, Reason.SANDBOX_QUOTA_EXCEEDED),
        (500, ErrorKind.TRANSIENT, Reason.SANDBOX_CREATE_FAILED),
        (503, ErrorKind.TRANSIENT, Reason.SANDBOX_CREATE_FAILED),
    ],
)
def test_a_refused_create_says_who_has_to_act_and_that_nothing_was_created(
    status: int, kind: ErrorKind, reason: Reason
) -> None:
    failure = _answered(status)
    assert (failure.kind, failure.reason) == (kind, reason)
    assert failure.outcome_known
    assert "the message" in failure.message
    assert "create" in failure.message


@pytest.mark.parametrize("status", [409, 500, 503])
def test_a_failed_resume_is_not_reported_as_a_failed_create(status: int) -> None:
    failure = _answered(status, "connect")
    assert (failure.kind, failure.reason) == (ErrorKind.TRANSIENT, Reason.SANDBOX_RESUME_FAILED)


_TOO_MANY_RUN = "you have reached the maximum number of concurrent E2B sandboxes (20). If you need more, …"


@pytest.mark.parametrize("operation", ["create", "connect"])
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (_TOO_MANY_RUN, Reason.SANDBOX_QUOTA_EXCEEDED),
        ("Rate limit exceeded", Reason.SANDBOX_RATE_LIMITED),
        ("Rate limit exceeded, please try again later", Reason.SANDBOX_RATE_LIMITED),
        ("", Reason.SANDBOX_QUOTA_EXCEEDED),
    ],
)
def test_too_many_requests_differ_from_too_many_sandboxes(
    operation: str, message: str, reason: Reason
) -> None:
    """The SDK's own words speak of a rate limit in both cases."""
    failure = _answered(429, operation, message)
    assert (failure.kind, failure.reason, failure.status) == (ErrorKind.RATE_LIMITED, reason, 429)


@pytest.mark.parametrize("operation", ["get", "list", "kill", "pause", "set_timeout", "worker start"])
def test_a_call_that_starts_no_sandbox_has_no_limit_of_sandboxes(operation: str) -> None:
    assert _answered(429, operation, "").reason is Reason.SANDBOX_RATE_LIMITED


def test_a_create_in_progress_differs_from_a_reused_key() -> None:
    assert _answered(409, message="A request with this Idempotency-Key is still in progress").in_progress
    assert not _answered(409, message="Idempotency-Key was used with another body").in_progress


@pytest.mark.parametrize("status", [502, 504])
def test_a_gateways_answer_leaves_the_outcome_of_a_create_unknown(status: int) -> None:
    failure = _answered(status)
    assert (failure.kind, failure.outcome_known, failure.status) == (ErrorKind.TRANSIENT, False, status)


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
def test_errors_without_a_status_are_retried_and_have_an_unknown_outcome(
    operation: str, error: Exception
) -> None:
    failure = translate(operation, error, KEY)
    assert (failure.kind, failure.outcome_known, failure.status) == (ErrorKind.TRANSIENT, False, None)
    assert failure.message


@pytest.mark.parametrize(
    "error", [e2b.SandboxNotFoundException("gone"), e2b.SandboxNotRunningException("gone")]
)
def test_a_missing_sandbox_is_gone(error: Exception) -> None:
    failure = translate("connect", error, KEY)
    assert (failure.kind, failure.reason) == (ErrorKind.NOT_FOUND, Reason.SANDBOX_VANISHED)


def test_a_silent_sandbox_is_not_gone() -> None:
    failure = translate("worker start", e2b.SandboxUnreachableException("port closed"), KEY)
    assert (failure.kind, failure.reason) == (ErrorKind.TRANSIENT, Reason.SANDBOX_UNREACHABLE)


def test_an_outdated_template_needs_a_person() -> None:
    failure = translate("create", e2b.TemplateException("update the template"), KEY)
    assert (failure.kind, failure.reason) == (ErrorKind.USER_ACTION, Reason.TEMPLATE_NOT_FOUND)


@pytest.mark.parametrize("before", [0, 100, 150, 175, 180, 190, 199, 300])
def test_the_error_text_has_no_part_of_the_key(before: int) -> None:
    error = e2b.SandboxException("x" * before + f" key {KEY.get_secret_value()} is not valid")
    text = str(translate("create", error, KEY))
    assert "e2b_0" not in text
    assert len(text) < 400


def test_only_the_first_line_of_a_long_answer_is_quoted() -> None:
    text = str(translate("create", e2b.SandboxException("first\n<html>second</html>"), KEY))
    assert "first" in text
    assert "second" not in text


def test_an_exception_without_a_text_is_named() -> None:
    assert "TimeoutError" in str(translate("pause", TimeoutError(), KEY))
