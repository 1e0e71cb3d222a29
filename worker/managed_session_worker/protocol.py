"""Requests and events that pass between the operator (through `attach`) and the supervisor."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

#: A claim names a file, so it is one plain path component; newer claims sort after older ones.
CLAIM_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}")
LOG_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR"})

Event = dict[str, Any]
RefusalReason = Literal["StaleEpoch", "StaleClaim", "UnknownClaim", "BadRequest", "StartFailed", "Replaced"]
ExitReason = Literal[
    "Idle",
    "NoMessage",
    "SessionEnded",
    "LeaseLost",
    "CredentialRejected",
    "Stopped",
    "ResultRefused",
    "Superseded",
    "Killed",
    "Thawed",
    "Error",
    "StartFailed",
]


class RefusedError(Exception):
    """The supervisor refuses a request. `reason` is for programs, the message for people."""

    def __init__(self, reason: RefusalReason, message: str) -> None:
        super().__init__(message)
        self.reason: RefusalReason = reason


@dataclass(frozen=True)
class StartRequest:
    """One claim to be served. The secrets stay out of `repr`."""

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
    log_level: str = "INFO"
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "StartRequest":
        """Read the request of the `start` command.

        Raises:
            RefusedError: `BadRequest`, naming the field and never its value.
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
            log_level=_text({"logLevel": "INFO", **document}, "logLevel").upper(),
            environment=_environment(document),
        )
        if request.work_secret is None and request.environment_key is None:
            raise RefusedError(
                "BadRequest", "workSecret is required (or environmentKey as an explicit opt-in)"
            )
        if request.log_level not in LOG_LEVELS:
            raise RefusedError("BadRequest", f"logLevel must be one of {', '.join(sorted(LOG_LEVELS))}")
        if not request.base_url.startswith(("https://", "http://")):
            raise RefusedError("BadRequest", "baseURL must start with https:// or http://")
        return request


def claim_of(document: Mapping[str, Any]) -> str:
    """The claim that a request names.

    Raises:
        RefusedError: `BadRequest` when it is absent or no plain name.
    """
    claim = document.get("claim")
    if not isinstance(claim, str) or not CLAIM_PATTERN.fullmatch(claim):
        raise RefusedError("BadRequest", "claim must be letters, digits and . _ : + - only, at most 128")
    return claim


def epoch_of(document: Mapping[str, Any]) -> int:
    """The leader's epoch that a request carries.

    Raises:
        RefusedError: `BadRequest` when it is absent or negative.
    """
    return _integer(document, "epoch")


def now() -> str:
    """The wall-clock time as RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def accepted(claim: str, pid: int, at: str) -> Event:
    """The worker of `claim` was forked (now, or earlier when the events are replayed)."""
    return {"event": "accepted", "claim": claim, "pid": pid, "at": at}


def heartbeat(claim: str, at: str) -> Event:
    """The worker's first heartbeat was answered 200: it holds the lease."""
    return {"event": "heartbeat", "claim": claim, "at": at}


def exited(claim: str, record: Mapping[str, Any]) -> Event:
    """The worker of `claim` is gone and its exit record is on disk. Final."""
    return {"event": "exited", "claim": claim, "record": dict(record)}


def refused(error: RefusedError, *, epoch: int, claim: str | None) -> Event:
    """The request changed nothing. `epoch` is the highest that the supervisor has seen. Final."""
    return {"event": "refused", "reason": error.reason, "message": str(error), "epoch": epoch, "claim": claim}


def _integer(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RefusedError("BadRequest", f"{name} must be a whole number, 0 or more")
    return value


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise RefusedError("BadRequest", f"{name} must be a text that is not empty")
    return value


def _optional_text(document: Mapping[str, Any], name: str) -> str | None:
    return None if document.get(name) is None else _text(document, name)


def _seconds(document: Mapping[str, Any], name: str, default: float) -> float:
    value = document.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise RefusedError("BadRequest", f"{name} must be a number of seconds above 0")
    return float(value)


def _environment(document: Mapping[str, Any]) -> dict[str, str]:
    value = document.get("environment") or {}
    if not isinstance(value, dict) or not all(
        isinstance(part, str) for pair in value.items() for part in pair
    ):
        raise RefusedError("BadRequest", "environment must map names to texts")
    return {
        name: text for name, text in value.items() if name and "=" not in name and "\0" not in f"{name}{text}"
    }
