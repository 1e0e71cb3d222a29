"""Notes the calls to Anthropic and E2B that a step makes, for the trace of its turn.

The clients note each call where it is sent. It belongs to the step that runs in the same context, or to no
step: then nothing is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from managed_session_operator.domain.errors import OperationError

ANTHROPIC = "Anthropic"
E2B = "E2B"


@dataclass(frozen=True)
class RemoteCall:
    """A call that is over.

    Attributes:
        service: the service that was called.
        operation: name of the operation.
        stage: the stage of the turn for which it was made.
        started_at: when it was sent.
        ended_at: when it was answered, or failed.
        error: the HTTP status or the kind of its error; None if it succeeded. No text of the service.
    """

    service: str
    operation: str
    stage: str
    started_at: datetime
    ended_at: datetime
    error: str | None = None


@dataclass(frozen=True)
class _Noting:
    stage: str
    note: Callable[[RemoteCall], None]
    now: Callable[[], datetime]


_noting: ContextVar[_Noting | None] = ContextVar("noting", default=None)


@contextmanager
def noted_calls(
    stage: str, note: Callable[[RemoteCall], None], now: Callable[[], datetime]
) -> Iterator[None]:
    """Have the calls noted that begin within the block, also those that tasks of it make and end later.

    Args:
        stage: the stage of the turn for which they are made.
        note: called with each call when it is over.
        now: returns the time.
    """
    token = _noting.set(_Noting(stage, note, now))
    try:
        yield
    finally:
        _noting.reset(token)


@contextmanager
def remote_call(service: str, operation: str) -> Iterator[None]:
    """Note the call that the block makes, if it is made for a stage of a turn."""
    noting = _noting.get()
    if noting is None:
        yield
        return
    began, error = noting.now(), None
    try:
        yield
    except BaseException as raised:
        error = _kind(raised)
        raise
    finally:
        noting.note(RemoteCall(service, operation, noting.stage, began, noting.now(), error))


def _kind(error: BaseException) -> str:
    if isinstance(error, OperationError):
        return str(error.status or error.reason)
    return type(error).__name__
