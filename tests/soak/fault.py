"""What a kind of fault is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .plan import Blow
from .world import World


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        kind: its name.
        weight: how often it is drawn, in relation to the others.
        do: does it, waits while it lasts and undoes it; writes it into the trace, unless it had no target.
    """

    kind: str
    weight: int
    do: Callable[[World, Blow], Awaitable[None]]
