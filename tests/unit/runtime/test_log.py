"""Log lines: their format, without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from managed_session_api.credentials import Credential
from managed_session_runtime.credentials import CredentialDirectory
from managed_session_runtime.log import LogFormat, LogLevel, configure_logging


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=list(LogFormat))
def stream(request: pytest.FixtureRequest, root_logger: logging.Logger) -> io.StringIO:
    assert root_logger
    target = io.StringIO()
    configure_logging(request.param, LogLevel.INFO, target)
    return target


SECRETS = [
    "sk-ant-api03-AbCdEf_123-xyz",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw=",
    "e2b_0123456789abcdef",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_keys_of_the_clouds_are_hidden_in_message_arguments_and_extras(
    stream: io.StringIO, secret: str
) -> None:
    logging.getLogger("test").info("message %s and %r", secret, {"key": secret}, extra={"field": secret})
    assert secret not in stream.getvalue()
    assert stream.getvalue().count("[redacted]") == 3


@pytest.mark.parametrize("secret", SECRETS)
def test_keys_in_a_traceback_are_hidden(stream: io.StringIO, secret: str) -> None:
    try:
        raise ValueError(f"bad key {secret}")
    except ValueError:
        logging.getLogger("test").exception("failed")
    assert "Traceback" in stream.getvalue()
    assert secret not in stream.getvalue()


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer some.opaque-token",
        "{'X-Api-Key': 'some.opaque-token'}",
        "x-api-key=some.opaque-token",
    ],
)
def test_header_values_are_hidden(stream: io.StringIO, line: str) -> None:
    logging.getLogger("test").warning("request had %s", line)
    assert "opaque" not in stream.getvalue()
    assert "request had" in stream.getvalue()


def test_a_credentials_value_is_hidden_in_any_format(stream: io.StringIO, tmp_path: Path) -> None:
    (tmp_path / Credential.WEBHOOK_ADMIN_TOKEN).write_text('quote"and\\slash-ümlaut')
    CredentialDirectory(tmp_path, {}).get(Credential.WEBHOOK_ADMIN_TOKEN)
    logging.getLogger("test").info(
        "token %s", 'quote"and\\slash-ümlaut', extra={"a": 'quote"and\\slash-ümlaut'}
    )
    assert "slash" not in stream.getvalue()


def test_a_json_line_has_time_level_logger_message_and_the_extra_fields(root_logger: logging.Logger) -> None:
    assert root_logger
    target = io.StringIO()
    configure_logging(LogFormat.JSON, LogLevel.INFO, target)
    logging.getLogger("area").warning("two\nlines", extra={"session": "sesn_1"})
    logging.getLogger("area").debug("not severe enough")
    record = json.loads(target.getvalue())
    assert {key: record[key] for key in ("level", "logger", "message", "session")} == {
        "level": "WARNING",
        "logger": "area",
        "message": "two\nlines",
        "session": "sesn_1",
    }
    assert record["time"].endswith("+00:00")


def test_a_text_line_has_the_extra_fields(root_logger: logging.Logger) -> None:
    assert root_logger
    target = io.StringIO()
    configure_logging(LogFormat.TEXT, LogLevel.INFO, target)
    logging.getLogger("area").info("routing work", extra={"session": "sesn_1"})
    assert "INFO area: routing work session=sesn_1\n" in target.getvalue()


def test_a_record_that_cannot_be_formatted_is_reported_without_its_arguments(stream: io.StringIO) -> None:
    handler = next(h for h in logging.getLogger().handlers if getattr(h, "stream", None) is stream)
    handler.handle(logging.LogRecord("area", logging.INFO, "file.py", 7, "%d", ("argument-text",), None))
    assert "cannot be formatted" in stream.getvalue()
    assert "file.py:7" in stream.getvalue()
    assert "argument-text" not in stream.getvalue()
