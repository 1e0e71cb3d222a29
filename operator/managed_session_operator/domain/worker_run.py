"""Defines what the operator knows of a worker: how it runs, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from managed_session_api.conditions import Reason
from managed_session_worker.protocol import CallDeaths, RefusalCode, refusal_code
from pydantic import BaseModel, ConfigDict
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


class ExitRecord(BaseModel):
    """What the supervisor recorded about a worker that ended."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)

    claim: str
    reason: str
    message: str | None = None
    tool_calls: int = 0
    tool_errors: int = 0
    results_refused: int = 0
    first_heartbeat_at: str | None = None
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

    def age_seconds(self) -> float:
        """Return the age of the stream in seconds."""
        return time.monotonic() - self.began

    @property
    def live(self) -> bool:
        """Whether the stream is open, so that it will report the worker's end."""
        return self.record is None and self.refused is None and self.cut is None
