"""Defines what the operator knows of a worker: how it runs, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Self

from managed_session_api.conditions import Reason
from managed_session_api.times import as_utc
from managed_session_worker.protocol import CallDeaths, RefusalCode, refusal_code
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from managed_session_operator.domain.errors import ErrorKind, OperationError


@dataclass(frozen=True)
class Refusal:
    """The supervisor's refusal of a request. A refused request has no effect.

    Attributes:
        code: the cause, for programs; None for a code of another version.
        message: the cause, for people.
    """

    code: RefusalCode | None
    message: str

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Self:
        """Parse the event `refused`."""
        code = refusal_code(event)
        why = [code.value] if code is not None else []
        return cls(code, ": ".join(["The supervisor refused", *why, str(event.get("message"))]))


class SupervisorRefusedError(OperationError):
    """The supervisor refused to start a worker or to stream its events; `code` as in `Refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        unsupported = refusal.code is RefusalCode.SHARING_UNSUPPORTED
        kind = ErrorKind.USER_ACTION if unsupported else ErrorKind.TRANSIENT
        super().__init__(kind, Reason.WORKER_START_FAILED, refusal.message)
        self.code = refusal.code


MOST_CALLS = 200
"""How many of a worker's calls are kept, the newest ones."""


def _plausible(time: datetime) -> datetime:
    """Return the time in UTC.

    Raises:
        ValueError: it makes no sense.
    """
    if not _YEARS[0] <= time.year <= _YEARS[1]:
        raise ValueError("not a plausible time")
    return as_utc(time)


_YEARS = (2000, 2200)
Time = Annotated[datetime, AfterValidator(_plausible)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
Tool = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class CallReport(BaseModel):
    """When a tool call began and ended, by the sandbox's clock. No text of it is free: it is not trusted."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)

    id: Identifier
    tool: Tool
    started_at: Time
    ended_at: Time
    is_error: bool = False
    input: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """Digest of its input."""


def call_report(document: Mapping[str, Any]) -> CallReport | None:
    """Return the report; None if it makes no sense."""
    try:
        return CallReport.model_validate(document)
    except ValidationError:
        return None


class ExitRecord(BaseModel):
    """What the supervisor recorded about a worker that ended."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)

    claim: str
    reason: str
    message: str | None = None
    tool_calls: int = 0
    tool_errors: int = 0
    results_refused: int = 0
    returns: int | None = None
    """How often the session has gone on while the worker waited. None: an earlier version's worker."""
    started_at: str | None = None
    first_heartbeat_at: str | None = None
    finished_at: str | None = None
    calls: list[dict[str, Any]] = []
    """The calls that ran when the worker ended (`id`, `tool`, `startedAt`)."""
    late_since: str | None = None
    """Since when it served late."""
    call_deaths: CallDeaths = {}
    memory_failures: list[dict[str, Any]] = []
    """What could not be synced of its session's memory stores (`store`, `why`)."""
    unsynchronised: list[str] = []
    """Files of memory stores that an earlier worker left, and that the stores do not have."""


@dataclass
class WorkerRun:
    """What this process knows of one claim's worker."""

    claim: str
    sandbox_id: str
    accepted: bool = False
    heartbeat: bool = False
    late: bool = False
    """Whether it serves late: its item is stopped, and it serves a message that arrived meanwhile."""
    record: ExitRecord | None = None
    refused: Refusal | None = None
    awaiting: tuple[str, ...] = ()
    """What the session's user has to answer before the turn can go on, in words; see `user_wait`."""
    cut: str | None = None
    """Why the stream ended before the worker did."""
    call_deaths: CallDeaths = field(default_factory=dict)
    """The supervisor's count of calls that ended workers, as of this worker's start."""
    began: float = field(default_factory=time.monotonic)
    calls: dict[str, CallReport] = field(default_factory=dict)
    """The newest calls that have ended, by ID, if they are reported."""

    def note_call(self, call: CallReport) -> bool:
        """Keep a report about a call. Return whether it is new."""
        if call.id in self.calls:
            return False
        self.calls[call.id] = call
        if len(self.calls) > MOST_CALLS:
            del self.calls[next(iter(self.calls))]
        return True

    def age_seconds(self) -> float:
        """Return the age of the stream in seconds."""
        return time.monotonic() - self.began

    @property
    def live(self) -> bool:
        """Whether the stream is open, so that it will report the worker's end."""
        return self.record is None and self.refused is None and self.cut is None
