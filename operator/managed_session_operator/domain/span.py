"""Defines a span of a trace, as OpenTelemetry understands it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

Attributes = Mapping[str, str | int]


@dataclass(frozen=True)
class Span:
    """A span of a trace.

    Attributes:
        name: what took the time.
        span_id: its ID.
        parent_id: the ID of its parent; None for the root.
        start: when it began.
        end: when it ended.
        attributes: what else is known. No content and no secret.
        error: the kind of its error, if it failed.
        client: whether it is a call to another service.
    """

    name: str
    span_id: int
    parent_id: int | None
    start: datetime
    end: datetime
    attributes: Attributes = field(default_factory=dict)
    error: str | None = None
    client: bool = False
