"""The events in a delivery's body.

Source: Anthropic SDK `BetaWebhookEvent`: `{"type": "event", "id", "created_at", "data": {"type", "id", …}}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from managed_session_api import events, names
from managed_session_api.resource import EventStatus
from pydantic import BaseModel, Field, ValidationError

_Text = Annotated[str, Field(min_length=1, max_length=256)]


class InvalidEventError(Exception):
    """The body is authentic and is no event; the text says what is wrong with which field."""


class _Data(BaseModel):
    type: _Text
    id: object = None


class _Event(BaseModel):
    type: Literal["event"]
    id: _Text
    created_at: datetime
    data: _Data


@dataclass(frozen=True)
class SessionEvent:
    """An event that a ManagedSession takes note of."""

    session_id: str
    event: EventStatus

    @property
    def starts_run(self) -> bool:
        """Whether work is queued for the session, so that it needs a resource."""
        return self.event.type == events.RUN_STARTED


def parse_event(body: bytes) -> SessionEvent | None:
    """The event in `body`; None for one of a type that no resource takes note of, known or not.

    Raises:
        InvalidEventError: it isn't an event, or a noted one without a usable session ID.
    """
    try:
        event = _Event.model_validate_json(body)
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in problem['loc']) or 'body'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False, include_context=False)
        )
        raise InvalidEventError("; ".join(problems)) from None
    if event.data.type not in events.NOTED_TYPES:
        return None
    if not names.is_session_id(event.data.id):
        raise InvalidEventError("data.id: a session ID has letters, digits, '_' and '-', at most 120 of them")
    return SessionEvent(
        session_id=str(event.data.id),
        event=EventStatus(id=event.id, type=event.data.type, created_at=event.created_at),
    )
