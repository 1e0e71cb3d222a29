"""The definition of a kind of fault."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .plan import PlannedFault
from .shared_state import SharedState


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        kind: name of the kind.
        weight: how often it is drawn, relative to the others.
        do: injects the fault, waits while it lasts, and undoes it. Records it in the trace if it had a
            target.
    """

    kind: str
    weight: int
    do: Callable[[SharedState, PlannedFault], Awaitable[None]]
