"""Keeps what the newest lists of E2B and Anthropic showed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from managed_session_operator.domain.findings import Findings
from managed_session_operator.domain.work_item import WorkList


@dataclass
class Listings:
    """What the newest lists showed."""

    work_list: WorkList | None = None
    """The environment's work list, from the last resync that could read it."""
    findings: Findings = field(default_factory=Findings)
    """What the newest resync found."""
    queue_error: str | None = None
    """The queue's error, while the queue answers every poll with one."""
    user_waits: int = 0
    """Number of slots held by sessions that wait for their user, as the metrics last reported it."""
    paused_waits: int = 0
    """Number of sessions whose sandbox is paused while they wait for their user."""
    _positions: tuple[WorkList, dict[str, int]] | None = field(default=None, repr=False)

    def positions(self, served: Callable[[str], bool], class_of: Callable[[str], str]) -> dict[str, int]:
        """Return the queue positions of waiting sessions, each in its class, as of the work list.

        Args:
            served: whether a session has a slot already.
            class_of: returns the name of a session's class.
        """
        if self.work_list is None:
            return {}
        if self._positions is None or self._positions[0] is not self.work_list:
            self._positions = (self.work_list, self.work_list.positions(served, class_of))
        return self._positions[1]

    def clear(self) -> None:
        """Forget what the lists showed."""
        self.work_list = self._positions = self.queue_error = None
        self.findings = Findings(self.findings.number + 1)
