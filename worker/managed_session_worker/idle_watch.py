"""Leaves an idle session where the SDK's worker would stay.

The SDK leaves a session that has been idle for `max_idle` seconds. Any further event ends its countdown, even
one that no run follows: an interrupt that arrives just after the answer, or the result of a call that was
interrupted. While the SDK holds a call that waits for a confirmation, it never leaves. Such a worker would
keep its sandbox running until somebody sends the next message.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from managed_session_worker.unread_events import UnreadEvents, awaits_action

SDK_FIRST_SECONDS = 1.0
"""How much longer than the SDK this waits, so that the SDK leaves wherever it can."""
_MESSAGES = ("user.message", "user.define_outcome")
_STATUSES = ("status_running", "status_rescheduled")


def starts_activity(kind: str) -> bool:
    """Return whether an event of this type shows that the agent works, or is about to."""
    return kind in _MESSAGES or kind.startswith("agent.") or kind.endswith(_STATUSES)


class IdleWatch:
    """Reads a session's events, and leaves once it has been idle for long without an event.

    Args:
        leave: Ends the worker.
        max_idle_seconds: How long the session may be idle.
        returned: Called with the number of times that the session has gone on while this waited.
    """

    def __init__(
        self,
        leave: Callable[[], None],
        max_idle_seconds: float,
        returned: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._leave = leave
        self._returned = returned
        self._returns = 0
        self._seconds = max_idle_seconds + SDK_FIRST_SECONDS
        self._unread = UnreadEvents()
        self._idle = False
        self._leaving: asyncio.TimerHandle | None = None

    def read(self, events: list[Any]) -> None:
        """Read the next events, in order; skip those that were read before."""
        unread = list(self._unread.among(events))
        for _, kind, event in unread:
            if kind == "session.status_idle":
                self._idle = not awaits_action(event)
            elif starts_activity(kind):
                # Not for a run that this reads about in the history: nobody waited for it here.
                if self._idle and self._leaving is not None:
                    self._returns += 1
                    self._returned(self._returns)
                self._idle = False
        if unread:
            self.restart()

    def pause(self) -> None:
        """Do not leave until the next event, or a restart."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def restart(self) -> None:
        """Wait the whole time again, if the session is idle."""
        self.pause()
        if self._idle:
            self._leaving = asyncio.get_running_loop().call_later(self._seconds, self._leave)
