"""Parses the event in a delivery's body.

Source: Anthropic SDK `BetaWebhookEvent`: `{"type": "event", "id", "created_at", "data": {"type", "id", …}}`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Literal

from managed_session_api import events, names
from managed_session_api.resource import EventStatus
from managed_session_api.times import as_utc
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import from_json

_Text = Annotated[str, Field(min_length=1, max_length=256)]
_EARLIEST, _LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def _plausible(time: datetime) -> datetime:
    """Accept only times that can be converted to UTC and written in Kubernetes' format."""
    if not _EARLIEST.year <= time.year <= _LATEST.year or not _EARLIEST < as_utc(time) < _LATEST:
        raise ValueError("not a plausible time")
    return time


class InvalidEventError(Exception):
    """The body is authentic, but not JSON."""


class UnrecognizedEventError(Exception):
    """The body is authentic, but its shape is unknown. The text names the field and what is wrong with it."""


class _Data(BaseModel):
    type: _Text
    id: object = None


class _Event(BaseModel):
    type: Literal["event"]
    id: _Text
    created_at: Annotated[datetime, AfterValidator(_plausible)]
    data: _Data


@dataclass(frozen=True)
class SessionEvent:
    """An event that is recorded in a ManagedSession."""

    session_id: str
    event: EventStatus

    @property
    def starts_run(self) -> bool:
        """Whether work is queued for the session, which therefore needs a resource."""
        return self.event.type == events.RUN_STARTED

    def at(self, received_at: datetime) -> SessionEvent:
        """Return the event with the time at which its delivery arrived."""
        return replace(self, event=self.event.model_copy(update={"received_at": received_at}))


def parse_event(body: bytes) -> SessionEvent | None:
    """Parse the event in `body`; None for a type that is not recorded, known or not.

    Raises:
        InvalidEventError: the body is not JSON.
        UnrecognizedEventError: the body is not an event, or its session ID or time is unusable.
    """
    try:
        value = from_json(body)
    except ValueError:
        raise InvalidEventError("body: not JSON") from None
    if _is_ignored(value):
        return None
    try:
        event = _Event.model_validate(value)
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in problem['loc']) or 'body'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False, include_context=False)
        )
        raise UnrecognizedEventError("; ".join(problems)) from None
    if not names.is_session_id(event.data.id):
        raise UnrecognizedEventError(
            "data.id: a session ID consists of at most 120 letters, digits, '_' and '-'"
        )
    return SessionEvent(
        session_id=str(event.data.id),
        event=EventStatus(id=event.id, type=event.data.type, created_at=event.created_at),
    )


def _is_ignored(value: object) -> bool:
    """Whether it is an event of a type that is not recorded, whatever else it contains."""
    if not isinstance(value, dict) or value.get("type") != "event" or not isinstance(value.get("data"), dict):
        return False
    type_ = value["data"].get("type")
    return isinstance(type_, str) and type_ not in events.RECORDED_TYPES
