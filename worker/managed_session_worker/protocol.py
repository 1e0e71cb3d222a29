"""Defines the requests and events between the operator (through `supervisorctl`) and the supervisor.

The operator imports this module and `paths`, and nothing else of the worker. Standard library only.
"""

import json
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from managed_session_worker.exit_reason import ExitReason, lease_given_back
from managed_session_worker.wire import EPOCH_VARIABLE, RESUMED_VARIABLE, RefusalCode, RequestRejectedError

__all__ = [
    "CLAIM_PATTERN",
    "EPOCH_VARIABLE",
    "LOG_LEVELS",
    "MAX_CAUSE",
    "MOST_CALLS",
    "MOST_CALL_REPORTS",
    "RESUMED_SIGNAL",
    "RESUMED_VARIABLE",
    "CallDeaths",
    "Event",
    "ExitReason",
    "RefusalCode",
    "StartRequest",
    "accepted",
    "awaiting",
    "call_ended",
    "claim_of",
    "epoch_of",
    "exited",
    "heartbeat",
    "late",
    "lease_given_back",
    "now",
    "parse_call_deaths",
    "refusal_code",
]

CLAIM_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}")
"""A claim is also a file name, so it is one plain path component. Newer claims sort after older ones."""
RESUMED_SIGNAL = signal.SIGUSR1
"""Sent to a worker whose sandbox was paused, after its first heartbeat: its connections are dead."""
LOG_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR"})

MOST_CALLS = 20
"""How many calls that ended a worker are remembered; those with the fewest deaths are dropped first."""
MAX_CAUSE = 200
"""The longest text kept about what ended a worker during a call."""
MOST_CALL_REPORTS = 80
"""How many reports about calls a supervisor keeps, the newest ones, for an operator that comes later."""
TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, version 00."""

Event = dict[str, Any]
CallDeaths = dict[str, dict[str, Any]]
"""By tool use ID: the tool's name, how many workers the call has ended, and what ended the last one."""


@dataclass(frozen=True)
class StartRequest:
    """A request to serve one claim. The secrets stay out of `repr`."""

    epoch: int
    claim: str
    session_id: str
    work_id: str
    environment_id: str
    base_url: str
    work_secret: str | None = field(default=None, repr=False)
    environment_key: str | None = field(default=None, repr=False)
    max_idle_seconds: float = 10.0
    attach_timeout_seconds: float = 60.0
    tool_call_attempts: int = 3
    call_deaths: CallDeaths = field(default_factory=dict)
    max_parallel_calls: int = 8
    log_level: str = "INFO"
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxy: str | None = field(default=None, repr=False)
    certificate_authorities: str | None = None
    traceparent: str | None = None
    """The span of this worker in the trace of its turn. Anthropic gets it with each request."""
    report_calls: bool = False
    """Whether to report when each tool call began and ended. Never with its input or result."""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "StartRequest":
        """Read the request of the `start` command.

        Raises:
            RequestRejectedError: `BadRequest`; the message names the field and never its value.
        """
        request = cls(
            epoch=_integer(document, "epoch"),
            claim=claim_of(document),
            session_id=_text(document, "sessionID"),
            work_id=_text(document, "workID"),
            environment_id=_text(document, "environmentID"),
            base_url=_text(document, "baseURL"),
            work_secret=_optional_text(document, "workSecret"),
            environment_key=_optional_text(document, "environmentKey"),
            max_idle_seconds=_seconds(document, "maxIdleSeconds", 10.0),
            attach_timeout_seconds=_seconds(document, "attachTimeoutSeconds", 60.0),
            tool_call_attempts=_integer({"toolCallAttempts": 3, **document}, "toolCallAttempts"),
            call_deaths=_call_deaths(document),
            max_parallel_calls=max(1, _integer({"maxParallelCalls": 8, **document}, "maxParallelCalls")),
            log_level=_text({"logLevel": "INFO", **document}, "logLevel").upper(),
            environment=_environment(document),
            proxy=_optional_text(document, "proxy"),
            certificate_authorities=_optional_text(document, "certificateAuthorities"),
            traceparent=_traceparent(document),
            report_calls=document.get("reportCalls") is True,
        )
        if request.work_secret is None and request.environment_key is None:
            raise RequestRejectedError(
                RefusalCode.BAD_REQUEST, "workSecret is required (or environmentKey as an explicit opt-in)"
            )
        if request.log_level not in LOG_LEVELS:
            raise RequestRejectedError(
                RefusalCode.BAD_REQUEST, f"logLevel must be one of {', '.join(sorted(LOG_LEVELS))}"
            )
        if not request.base_url.startswith(("https://", "http://")):
            raise RequestRejectedError(RefusalCode.BAD_REQUEST, "baseURL must start with https:// or http://")
        return request

    def to_line(self) -> str:
        """Return the request as `parse` reads it. It holds the session token: for the inbox file only."""
        return json.dumps(
            {
                "command": "start",
                "epoch": self.epoch,
                "claim": self.claim,
                "sessionID": self.session_id,
                "workID": self.work_id,
                "environmentID": self.environment_id,
                "workSecret": self.work_secret,
                "environmentKey": self.environment_key,
                "baseURL": self.base_url,
                "maxIdleSeconds": self.max_idle_seconds,
                "attachTimeoutSeconds": self.attach_timeout_seconds,
                "toolCallAttempts": self.tool_call_attempts,
                "callDeaths": self.call_deaths,
                "maxParallelCalls": self.max_parallel_calls,
                "logLevel": self.log_level,
                "environment": dict(self.environment),
                "proxy": self.proxy,
                "certificateAuthorities": self.certificate_authorities,
                "traceparent": self.traceparent,
                "reportCalls": self.report_calls,
            }
        )


def refusal_code(event: Mapping[str, Any]) -> RefusalCode | None:
    """Return the code of a `refused` event; None for a code that this version does not know.

    A sandbox keeps the worker of the version that made it. Workers without `code` have it in `reason`.
    """
    code = event.get("code", event.get("reason"))
    return next((each for each in RefusalCode if each.value == code), None)


def claim_of(document: Mapping[str, Any]) -> str:
    """Return the claim of a request.

    Raises:
        RequestRejectedError: `BadRequest` if it is missing or not a plain name.
    """
    claim = document.get("claim")
    if not isinstance(claim, str) or not CLAIM_PATTERN.fullmatch(claim):
        raise RequestRejectedError(
            RefusalCode.BAD_REQUEST, "claim must be letters, digits and . _ : + - only, at most 128"
        )
    return claim


def epoch_of(document: Mapping[str, Any]) -> int:
    """Return the leader's epoch in a request.

    Raises:
        RequestRejectedError: `BadRequest` if it is missing or negative.
    """
    return _integer(document, "epoch")


def now() -> str:
    """Return the current time as RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def accepted(
    claim: str, pid: int, at: str, deaths: CallDeaths, awaiting: Sequence[Mapping[str, str]] = ()
) -> Event:
    """Make the event that the worker of `claim` was forked, now or (in a replay) earlier.

    `deaths`: calls that have ended a worker, including the one that this claim superseded.
    `awaiting`: calls that the session's user has to answer, as in the event of that name.
    """
    return {
        "event": "accepted",
        "claim": claim,
        "pid": pid,
        "at": at,
        "callDeaths": deaths,
        "awaiting": list(awaiting),
    }


def awaiting(claim: str, calls: Sequence[Mapping[str, str]]) -> Event:
    """Make the event that the session's user has to answer `calls` (`id`, `tool`, `answer`), if any."""
    return {"event": "awaiting", "claim": claim, "calls": list(calls)}


def heartbeat(claim: str, at: str) -> Event:
    """Make the event that the worker's first heartbeat was answered 200: it holds the lease."""
    return {"event": "heartbeat", "claim": claim, "at": at}


def late(claim: str, at: str) -> Event:
    """Make the event that the worker serves a late message: its item is stopped and it has no lease."""
    return {"event": "late", "claim": claim, "at": at}


def call_ended(claim: str, call: Mapping[str, Any]) -> Event:
    """Make the event that a tool call has ended.

    `call`: its `id`, `tool`, `startedAt`, `endedAt`, `isError`, and `input`, the digest of its input. A new
    listener gets the newest ones again, so they can be repeated.
    """
    return {"event": "call", "claim": claim, "call": dict(call)}


def exited(claim: str, record: Mapping[str, Any]) -> Event:
    """Make the event that the worker of `claim` has ended and its exit record is on disk. Final.

    The reports about its calls have events of their own.
    """
    return {
        "event": "exited",
        "claim": claim,
        "record": {name: value for name, value in record.items() if name != "callReports"},
    }


def _integer(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RequestRejectedError(RefusalCode.BAD_REQUEST, f"{name} must be a whole number, 0 or more")
    return value


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise RequestRejectedError(RefusalCode.BAD_REQUEST, f"{name} must be a text that is not empty")
    return value


def _optional_text(document: Mapping[str, Any], name: str) -> str | None:
    return None if document.get(name) is None else _text(document, name)


def _traceparent(document: Mapping[str, Any]) -> str | None:
    """Return the trace context; None if there is none or it is malformed: no turn fails for its trace."""
    value = document.get("traceparent")
    return value if isinstance(value, str) and TRACEPARENT.fullmatch(value) else None


def _seconds(document: Mapping[str, Any], name: str, default: float) -> float:
    value = document.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise RequestRejectedError(RefusalCode.BAD_REQUEST, f"{name} must be a number of seconds above 0")
    return float(value)


def parse_call_deaths(value: object) -> CallDeaths | None:
    """Read the deaths in a start request; None if they are malformed."""
    if not isinstance(value, dict):
        return None
    deaths: CallDeaths = {}
    for identifier, entry in value.items():
        number = entry.get("deaths") if isinstance(entry, dict) else None
        if not isinstance(number, int) or isinstance(number, bool):
            return None
        deaths[str(identifier)] = {
            "tool": str(entry.get("tool", "")),
            "deaths": number,
            "cause": str(entry.get("cause", ""))[:MAX_CAUSE],
        }
    return deaths


def _call_deaths(document: Mapping[str, Any]) -> CallDeaths:
    deaths = parse_call_deaths(document.get("callDeaths") or {})
    if deaths is None:
        raise RequestRejectedError(
            RefusalCode.BAD_REQUEST, "callDeaths must map tool use IDs to tool, deaths and cause"
        )
    return deaths


def _environment(document: Mapping[str, Any]) -> dict[str, str]:
    value = document.get("environment") or {}
    if not isinstance(value, dict) or not all(
        isinstance(part, str) for pair in value.items() for part in pair
    ):
        raise RequestRejectedError(RefusalCode.BAD_REQUEST, "environment must map names to texts")
    return {
        name: text for name, text in value.items() if name and "=" not in name and "\0" not in f"{name}{text}"
    }
