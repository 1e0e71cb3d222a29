"""What a soak will do, drawn from its seed alone: what users send, and what chaos does when."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

THINK_SECONDS = (0.0, 0.1, 0.3, 1.5, 3.0)
"""Between two turns: within a worker's wait for the next message, and longer than it."""
IN_A_ROW = (1, 1, 1, 1, 1, 2, 3)
"""Messages that are sent without waiting for an answer in between."""
INTERRUPTED_SHARE = 0.05
BODIES = (
    "true",
    "true",
    "sleep 0.3",
    "sleep 1.5",
    "sleep 4",
    "head --bytes=40000 /dev/zero | tr '\\0' 'x'; echo",
    "ls --all /mnt/session",
)
WORKSPACE = "/mnt/session"


@dataclass(frozen=True)
class Message:
    """One task of a user: it leaves a file and shows what all earlier ones of the session left.

    Attributes:
        token: unique in the soak; the file's content, and part of the answer.
        body: a command that takes time or prints much.
    """

    token: str
    body: str

    @property
    def text(self) -> str:
        """What the user sends. Running the command a second time changes nothing."""
        file = f"{WORKSPACE}/kept-{self.token}"
        return (
            f"Run: {self.body}; echo kept-{self.token} > {file}; cat {WORKSPACE}/kept-*; "
            f"echo done-{self.token}"
        )

    def again(self, times: int) -> Message:
        """The same task as a new message, after the first one was interrupted."""
        return Message(f"{self.token.partition('r')[0]}r{times}", self.body)


@dataclass(frozen=True)
class Turn:
    """One turn of a user.

    Attributes:
        think_seconds: before it.
        messages: sent one after the other, without waiting.
        interrupt_after_seconds: the user breaks it off so long after the last message; None: does not.
    """

    think_seconds: float
    messages: tuple[Message, ...]
    interrupt_after_seconds: float | None


@dataclass(frozen=True)
class Blow:
    """One thing that chaos does.

    Attributes:
        number: of this hand's blows, from 1.
        kind: name of the fault.
        wait_seconds: before it.
        hold_seconds: how long it lasts, where it does.
        seed: for what the fault itself chooses.
    """

    number: int
    kind: str
    wait_seconds: float
    hold_seconds: float
    seed: str

    @property
    def random(self) -> random.Random:
        """The fault's own choices, the same each time."""
        return random.Random(self.seed)


def turns(seed: int, session: int, count: int) -> list[Turn]:
    """The turns of one session of a soak."""
    chosen = random.Random(f"{seed}/session/{session}")
    return [_turn(chosen, f"s{session}t{number}") for number in range(1, count + 1)]


def _turn(chosen: random.Random, name: str) -> Turn:
    messages = tuple(
        Message(f"{name}m{number}", chosen.choice(BODIES)) for number in range(1, chosen.choice(IN_A_ROW) + 1)
    )
    interrupted = chosen.random() < INTERRUPTED_SHARE
    after = chosen.uniform(0.2, 3.0)
    return Turn(chosen.choice(THINK_SECONDS), messages, after if interrupted else None)


def ends_itself(seed: int, session: int) -> bool:
    """Whether the user deletes the session after its last turn."""
    return random.Random(f"{seed}/end/{session}").random() < 0.5


def has_api_key(seed: int) -> bool:
    """Whether the operators have the optional API key, with which they recover stuck sessions."""
    return random.Random(f"{seed}/api key").random() < 0.5


def blows(seed: int, hand: int, weights: dict[str, int], *, wait: float, hold: float) -> Iterator[Blow]:
    """What one hand of chaos does, without end.

    Args:
        seed: of the soak.
        hand: number of the hand.
        weights: of the faults, by kind.
        wait: seconds between two blows, on average.
        hold: seconds that a lasting fault lasts, on average.
    """
    chosen = random.Random(f"{seed}/chaos/{hand}")
    kinds, shares = list(weights), list(weights.values())
    number = 0
    while True:
        number += 1
        kind = chosen.choices(kinds, shares)[0]
        yield Blow(
            number,
            kind,
            chosen.uniform(0, 2 * wait),
            chosen.uniform(0.2, 2 * hold),
            f"{seed}/chaos/{hand}/{number}",
        )
