"""The gate before each effect of a process. There the process can die, freeze, or lose the answer."""

from __future__ import annotations

import asyncio
from enum import Enum, auto


class Passage(Enum):
    """What happens to an effect."""

    DONE = auto()
    REFUSED = auto()
    """It is not done, and the process gets an error with an unknown outcome."""
    LOST = auto()
    """It is done, and the process gets the same error."""
    HELD = auto()
    """It waits at the gate, because its process is frozen or dead."""


class Gate:
    """Holds, refuses or loses effects. It belongs to one event loop."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self._left: int | None = None
        self._then = Passage.DONE
        self._released: asyncio.Future[None] | None = None

    def after(self, effects: int, then: Passage) -> None:
        """Let this many effects pass. `then` happens to the next one; HELD holds all later ones too."""
        self._left, self._then = effects, then
        self.held.clear()

    def open(self) -> None:
        """Let all effects pass, including those that wait."""
        self._left = None
        self._release()

    def let_through(self, effects: int) -> None:
        """Let the waiting effects pass, and this many more. Hold the next one again."""
        self._left = effects
        self.held.clear()
        self._release()

    def _release(self) -> None:
        if self._released is not None:
            self._released.set_result(None)
            self._released = None

    async def passes(self) -> Passage:
        """Wait at the gate, and return what happens to the effect."""
        if self._left is None:
            return Passage.DONE
        if self._left > 0:
            self._left -= 1
            return Passage.DONE
        if self._then is not Passage.HELD:
            self._left = None
            return self._then
        self._released = self._released or asyncio.get_running_loop().create_future()
        self.held.set()
        await asyncio.shield(self._released)
        return Passage.DONE
