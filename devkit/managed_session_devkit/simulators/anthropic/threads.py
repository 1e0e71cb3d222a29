"""Threads of sub-agents in a session.

The session's own stream reports a thread's status (`session.thread_status_*`) and its tool calls, which carry
the thread's ID (SDK types `BetaManagedAgentsSessionThread…`, `BetaManagedAgentsAgentToolUseEvent`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from managed_session_devkit.simulators.anthropic.identifiers import new_id

if TYPE_CHECKING:
    from managed_session_devkit.simulators.anthropic.session import Session


@dataclass(eq=False)
class Thread:
    """A sub-agent's thread beside the session's primary thread."""

    session: Session
    agent_name: str
    id: str = field(default_factory=lambda: new_id("sthr"))
    steps: asyncio.Task[str] | None = None
    """What plays the thread's steps."""

    def begin(self) -> None:
        """Create the thread, which runs at once."""
        self.session.threads.add(self)
        self._notify("session.thread_created")
        self.session.announce(self.session, "session.thread_created", self.id)
        self.run()

    def run(self) -> None:
        """Become running again."""
        self._notify("session.thread_status_running")

    def require_action(self) -> None:
        """Wait for the open calls. The session waits when none of its threads runs."""
        mine = [call.event_id for call in self.session.waiting.values() if call.thread is self]
        self._idle({"type": "requires_action", "event_ids": mine})
        if all(thread.waits for thread in self.session.threads):
            self.session.require_action()

    @property
    def waits(self) -> bool:
        """Whether the thread waits for a call's result."""
        return any(call.thread is self for call in self.session.waiting.values())

    def answered(self) -> None:
        """Handle the result of one of its calls."""
        if self.waits:
            self.require_action()
        else:
            self.run()
            self.session.run()

    def end(self, stop_reason: str = "end_turn") -> None:
        """End the thread with this stop reason."""
        self.session.threads.discard(self)
        self._idle({"type": stop_reason})
        self.session.announce(self.session, "session.thread_idled", self.id)

    def interrupt(self) -> None:
        """End what the thread does. The session goes on without its answer."""
        self.session.drop_waiting(self.id)
        if self.steps is not None:
            self.steps.cancel()

    def terminate(self) -> None:
        """End for good. Results of its calls are no longer accepted."""
        self.session.threads.discard(self)
        self._notify("session.thread_status_terminated")
        self.session.announce(self.session, "session.thread_terminated", self.id)

    def _idle(self, stop_reason: dict[str, Any]) -> None:
        self._notify("session.thread_status_idle", stop_reason=stop_reason)

    def _notify(self, kind: str, **fields: Any) -> None:
        self.session.append(
            {"type": kind, "agent_name": self.agent_name, "session_thread_id": self.id, **fields}
        )
