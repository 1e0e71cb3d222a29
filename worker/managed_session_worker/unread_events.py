"""Reads single events: tells new ones from those read before, and an open turn from one that is over."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class UnreadEvents:
    """Gives each of a session's events once, although the history and the stream both have it."""

    def __init__(self) -> None:
        self._read: set[str] = set()

    def among(self, events: Iterable[Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Yield ID, type and content of the events that were never read, in order."""
        for event in events:
            identifier = str(event.get("id")) if isinstance(event, Mapping) else ""
            if identifier and identifier not in self._read:
                self._read.add(identifier)
                yield identifier, str(event.get("type")), event


def awaits_action(idle: Mapping[str, Any]) -> bool:
    """Return whether a `session.status_idle` leaves the turn open, until somebody answers its calls."""
    reason = idle.get("stop_reason")
    return isinstance(reason, Mapping) and reason.get("type") == "requires_action"
