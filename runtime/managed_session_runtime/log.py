"""Logs to stderr, one JSON object or one line of text per record, without secrets.

Redaction applies to the formatted text, so that it covers messages, arguments, extra fields and tracebacks.
It is the last line of defence: no code logs a secret on purpose.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from enum import StrEnum
from typing import TextIO

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

REDACTED = "[redacted]"

_MINIMUM_LENGTH = 8
"""Shorter values are hardly secrets, and redacting them would garble ordinary words."""

_PATTERNS = (
    r"\b(?:sk-ant-|whsec_|e2b_)[A-Za-z0-9_\-+/=.]{6,}",
    r"(?i:(?<=bearer )|(?<=x-api-key: )|(?<=x-api-key:)|(?<=x-api-key=))[^\s\"',}\\]+",
    r"(?i:(?<=x-api-key\": \")|(?<=x-api-key': ')|(?<=x-api-key\\\": \\\"))[^\s\"',}\\]+",
)


class LogFormat(StrEnum):
    """Format of log records."""

    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """Lowest severity that is logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class _Redaction:
    """All registered values and patterns, combined into one regular expression."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._expression = self._compile()

    def add(self, value: str) -> None:
        written = (json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value))
        spellings = {value, *(text[1:-1] for text in written)}
        if len(value) >= _MINIMUM_LENGTH and not spellings <= self._values:
            self._values |= spellings
            self._expression = self._compile()

    def apply(self, text: str) -> str:
        return self._expression.sub(REDACTED, text)

    def _compile(self) -> re.Pattern[str]:
        values = (re.escape(value) for value in sorted(self._values, key=len, reverse=True))
        return re.compile("|".join((*values, *_PATTERNS)))


_redaction = _Redaction()


def redact_value(value: str) -> None:
    """Redact `value` in all later log lines of this process."""
    _redaction.add(value)


def redact(text: str) -> str:
    """Return `text` without registered values and without anything that looks like a cloud key."""
    return _redaction.apply(text)


class RedactingFormatter(logging.Formatter):
    """Wraps another formatter and redacts its output."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Format the record. If that fails, return a record that reports the failure."""
        try:
            text = self._inner.format(record)
        except Exception as error:  # noqa: BLE001 - logging must neither fail nor print raw arguments
            text = json.dumps(
                {
                    "level": "ERROR",
                    "logger": record.name,
                    "message": f"log record of {record.filename}:{record.lineno} cannot be formatted: "
                    f"{type(error).__name__}",
                }
            )
        return redact(text)


class _TextLines(logging.Formatter):
    """Formats records for people: time, level, logger, message, then extra fields as key=value."""

    _KNOWN = frozenset({*RESERVED_ATTRS, "taskName", "color_message"})

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Format the first line. The base class adds the traceback below it."""
        fields = merge_record_extra(record, {}, reserved=self._KNOWN)
        return " ".join((super().formatMessage(record), *(f"{key}={value}" for key, value in fields.items())))


def configure_logging(
    log_format: LogFormat = LogFormat.JSON, level: LogLevel = LogLevel.INFO, stream: TextIO | None = None
) -> None:
    """Send the records of all loggers to `stream` (stderr), and replace earlier handlers.

    JSON records have `time` (RFC 3339, UTC), `level`, `logger`, `message`, the fields given as `extra`, and
    `exc_info` for an exception.
    """
    inner: logging.Formatter
    if log_format is LogFormat.JSON:
        inner = JsonFormatter(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",
            reserved_attrs=[*RESERVED_ATTRS, "taskName", "color_message"],
            json_ensure_ascii=False,
        )
    else:
        inner = _TextLines("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(RedactingFormatter(inner))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.value)
