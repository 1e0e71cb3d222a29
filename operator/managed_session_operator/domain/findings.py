"""Defines what a resync found out about resources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Findings:
    """What one resync found, by the names of the resources.

    Attributes:
        number: grows with each resync. A step that has handled its resource's findings notes the number
            (`SessionCache.settle`), so that they are handled once.
        listed_at: time just before E2B was asked for the running sandboxes.
        missing: resources whose sandbox is not on a list that was read to its end.
        running_unneeded: resources whose sandbox was found running twice although nothing needs it.
        unrecorded: resources with a sandbox of an attempt that their status does not know.
        periods: when the running period of each sandbox began, according to E2B.
        unstarted: resources whose work is acknowledged, but neither started nor ours, with the time of the
            first work list in a row that showed it.
    """

    number: int = 0
    listed_at: datetime | None = None
    missing: frozenset[str] = frozenset()
    running_unneeded: frozenset[str] = frozenset()
    unrecorded: frozenset[str] = frozenset()
    periods: Mapping[str, datetime] = field(default_factory=dict)
    unstarted: Mapping[str, datetime] = field(default_factory=dict)
