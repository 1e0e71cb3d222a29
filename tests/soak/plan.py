"""The plan of a soak, drawn from its seed alone: the users' messages, and which fault comes when."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

THINK_SECONDS = (0.0, 0.1, 0.3, 1.5, 3.0)
"""Pauses between turns, shorter and longer than a worker waits for the next message."""
IN_A_ROW = (1, 1, 1, 1, 1, 2, 3)
"""Numbers of messages that are sent without waiting for an answer."""
INTERRUPTED_SHARE = 0.05
ANSWERED_AFTER = (0.5, 4.0, 4.0, 10.0, 20.0)
"""Times until a person answers: before the sandbox is paused, while it is, and after the lease has lapsed."""
THREADS = 3
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
SHOWS = (
    f'echo "prepared: $(cat {WORKSPACE}/settings.txt) $(cat {WORKSPACE}/made)'
    ' $(printf %s "$SOAK_VARIABLE" | sha256sum | cut -c1-16)"; '
    'echo "api: $(curl --silent --max-time 5 http://api.example.com/)"; '
)
"""What a prepared session's task shows: the setup's file and script, a variable's digest, an API's answer."""


class Kind(StrEnum):
    """How a task's calls are made."""

    RUN = "run"
    CONFIRM = "confirm"
    CUSTOM = "custom"
    THREADS = "threads"


@dataclass(frozen=True)
class Message:
    """One task of a user. It leaves a file, and shows the files of all earlier tasks of the session.

    Attributes:
        token: unique text in the soak: the content of the file, and a part of the answer.
        body: command that takes time or prints much.
        kind: how its calls are made.
        prepared: whether the session's sandbox has what `SHOWS` shows.
    """

    token: str
    body: str
    kind: Kind = Kind.RUN
    prepared: bool = False

    @property
    def text(self) -> str:
        """The message's text. Running its command a second time changes nothing."""
        command, last = self.body, f"echo done-{self.token}"
        beside = [f"{WORKSPACE}/beside-{self.token}-{number}" for number in range(THREADS)]
        if self.kind is Kind.THREADS:
            command, last = "true", f"cat {' '.join(beside)} >/dev/null && {last}"
        command += f"; echo kept-{self.token} > {WORKSPACE}/kept-{self.token}; cat {WORKSPACE}/kept-*; "
        command += (SHOWS if self.prepared else "") + last
        match self.kind:
            case Kind.RUN:
                return f"Run: {command}"
            case Kind.CONFIRM:
                return _script({**_bash(command), "permission": "ask"})
            case Kind.CUSTOM:
                return _script({"tool": "approve", "input": {}, "custom": True}, _bash(command))
            case Kind.THREADS:
                threads = [[_bash(f"{self.body}; echo made > {file}")] for file in beside]
                return _script({"threads": threads}, _bash(command))

    def again(self, times: int) -> Message:
        """Return the same task as a new message, after the first one was interrupted."""
        return replace(self, token=f"{self.token.partition('r')[0]}r{times}")


def _script(*steps: dict[str, Any]) -> str:
    return json.dumps({"script": [*steps, {"say": "{result}"}]})


def _bash(command: str) -> dict[str, Any]:
    return {"tool": "bash", "input": {"command": command}}


@dataclass(frozen=True)
class Turn:
    """One turn of a user.

    Attributes:
        think_seconds: pause before the turn.
        messages: messages that are sent one after the other, without waiting.
        interrupt_after_seconds: when the user interrupts it, after the last message. None: never.
        answer_after_seconds: when the user answers a call that waits for a person.
    """

    think_seconds: float
    messages: tuple[Message, ...]
    interrupt_after_seconds: float | None
    answer_after_seconds: float


@dataclass(frozen=True)
class PlannedFault:
    """One fault that the chaos will inject.

    Attributes:
        number: number of the fault in its loop, from 1.
        kind: name of the fault.
        wait_seconds: pause before it.
        hold_seconds: how long it lasts, if it does.
        seed: seed of the fault's own choices.
    """

    number: int
    kind: str
    wait_seconds: float
    hold_seconds: float
    seed: str

    @property
    def random(self) -> random.Random:
        """A generator for the fault's own choices, the same each time."""
        return random.Random(self.seed)


def turns(seed: int, session: int, count: int) -> list[Turn]:
    """Return the turns of one session."""
    chosen = random.Random(f"{seed}/session/{session}")
    prepared = is_prepared(seed, session)
    return [_turn(chosen, f"s{session}t{number}", prepared=prepared) for number in range(1, count + 1)]


def _turn(chosen: random.Random, name: str, *, prepared: bool) -> Turn:
    count = chosen.choice(IN_A_ROW)
    # While a session waits for a person, Anthropic takes no further message.
    kinds = list(Kind) if count == 1 else [Kind.RUN, Kind.THREADS]
    messages = tuple(
        Message(
            f"{name}m{number}",
            chosen.choice(BODIES),
            chosen.choice([Kind.RUN, Kind.RUN, *kinds]),
            prepared,
        )
        for number in range(1, count + 1)
    )
    interrupted = chosen.random() < INTERRUPTED_SHARE
    after = chosen.uniform(0.2, 3.0)
    return Turn(
        chosen.choice(THINK_SECONDS),
        messages,
        after if interrupted else None,
        chosen.choice(ANSWERED_AFTER),
    )


def is_prepared(seed: int, session: int) -> bool:
    """Return whether the session has a class with a setup and secrets."""
    return random.Random(f"{seed}/prepared/{session}").random() < 0.5


def ends_itself(seed: int, session: int) -> bool:
    """Return whether the user deletes the session after its last turn."""
    return random.Random(f"{seed}/end/{session}").random() < 0.5


def has_api_key(seed: int) -> bool:
    """Return whether the operators have the optional API key, with which they recover stuck sessions."""
    return random.Random(f"{seed}/api key").random() < 0.5


def planned_faults(
    seed: int, loop: int, weights: dict[str, int], *, wait: float, hold: float
) -> Iterator[PlannedFault]:
    """Yield the faults of one loop, without end.

    Args:
        seed: seed of the soak.
        loop: number of the loop.
        weights: weights of the faults, by kind.
        wait: average seconds between two faults.
        hold: average seconds that a lasting fault lasts.
    """
    chosen = random.Random(f"{seed}/chaos/{loop}")
    kinds, shares = list(weights), list(weights.values())
    number = 0
    while True:
        number += 1
        kind = chosen.choices(kinds, shares)[0]
        yield PlannedFault(
            number,
            kind,
            chosen.uniform(0, 2 * wait),
            chosen.uniform(0.2, 2 * hold),
            f"{seed}/chaos/{loop}/{number}",
        )
