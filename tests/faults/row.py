"""A row of the fault matrix."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ..support.arrangements import USUAL, Arrangement
from .effects import Effect
from .scenario import Scenario

Play = Callable[[Scenario], Awaitable[None]]


@dataclass(frozen=True)
class Outcome:
    """What the verdict expects where a row differs from "answered, by one sandbox".

    Attributes:
        sandboxes: how many sandboxes of a session may have got a worker: more than one only where the row
            loses one on purpose. Those that the row's sessions share count for each of them.
        unanswered: messages of all sessions together that nobody can serve any more; the row itself checks
            that the resource says why.
        results_posted_again: posts of results whose first answer the row loses.
        gone: the sessions' resources are removed by the end of the row.
    """

    sandboxes: int = 1
    unanswered: int = 0
    results_posted_again: int = 0
    gone: bool = False


@dataclass(frozen=True)
class Row:
    """One named fault: what is done, and what has to hold besides the promises.

    Attributes:
        family: the folder of the table that it belongs to.
        name: says the fault; completes "the promises hold when …".
        play: does it, and waits for what the row is about.
        arrangement: the system that it is played in.
        outcome: what the verdict expects.
        cuts: the effect between whose sending and answer the acting process is killed, with whether the
            effect was committed; these are held against the calls that a life of a session makes.
    """

    family: str
    name: str
    play: Play = field(hash=False)
    arrangement: Arrangement = USUAL
    outcome: Outcome = Outcome()
    cuts: tuple[Effect, bool] | None = None
